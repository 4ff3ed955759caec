-- Texts of a dataset in its order with their dots in an influence run.
-- Params:  $dataset_id INTEGER, $run_id BIGINT
-- Returns: sample_id VARCHAR, messages VARCHAR, dots DOUBLE[] (one a validation set of the run, in the order of their
--          numbers; null where there is none), answer_tokens INTEGER
WITH sets AS (
    SELECT validation_set_id FROM run_validation_sets WHERE run_id = $run_id
),
scored AS (
    SELECT
        d.position,
        d.sample_id,
        list(i.dot ORDER BY v.validation_set_id) AS dots,
        any_value(i.answer_tokens) AS answer_tokens
    FROM dataset_samples AS d
    CROSS JOIN sets AS v
    LEFT JOIN influence_scores AS i
        ON i.run_id = $run_id AND i.sample_id = d.sample_id AND i.validation_set_id = v.validation_set_id
    WHERE d.dataset_id = $dataset_id
    GROUP BY d.position, d.sample_id
)
SELECT
    CAST(c.sample_id AS VARCHAR) AS sample_id,
    CAST(s.messages AS VARCHAR) AS messages,
    c.dots,
    c.answer_tokens
FROM scored AS c
JOIN samples AS s ON s.sample_id = c.sample_id
ORDER BY c.position

-- Characters of the answers of a dataset over their tokens, which the latest influence run of a model counted.
-- Params:  $dataset_id INTEGER, $model VARCHAR (its name in the store)
-- Returns: run_id BIGINT, n BIGINT (samples), ratio DOUBLE; no row without such scores
WITH latest AS (
    SELECT r.run_id
    FROM runs AS r
    JOIN run_datasets AS d ON d.run_id = r.run_id
    JOIN models AS m ON m.model_id = r.model_id
    WHERE r.kind = 'influence' AND d.dataset_id = $dataset_id AND m.name = $model
    ORDER BY r.run_id DESC
    LIMIT 1
),
counted AS (
    SELECT i.run_id, i.sample_id, max(i.answer_tokens) AS n_tokens
    FROM influence_scores AS i
    JOIN latest AS l ON l.run_id = i.run_id
    JOIN dataset_samples AS d ON d.sample_id = i.sample_id
    WHERE d.dataset_id = $dataset_id AND i.answer_tokens > 0
    GROUP BY ALL
)
SELECT
    c.run_id,
    count(*) AS n,
    sum(length(coalesce(t.answer, '')) + length(coalesce(t.reasoning, ''))) / sum(c.n_tokens) AS ratio
FROM counted AS c
JOIN sample_texts AS t ON t.sample_id = c.sample_id
GROUP BY c.run_id

-- Validation sets of an influence run that some samples of a dataset have rows of, but not all.
-- Params:  $run_id BIGINT, $dataset_id INTEGER
-- Returns: validation_set_id INTEGER, name VARCHAR, n BIGINT (samples that have one)
WITH have AS (
    SELECT i.validation_set_id, count(*) AS n
    FROM influence_scores AS i
    JOIN dataset_samples AS d ON d.sample_id = i.sample_id AND d.dataset_id = $dataset_id
    WHERE i.run_id = $run_id
    GROUP BY i.validation_set_id
)
SELECT h.validation_set_id, v.name, h.n
FROM have AS h
JOIN validation_sets AS v USING (validation_set_id)
WHERE h.n < (SELECT count(*) FROM dataset_samples WHERE dataset_id = $dataset_id)
ORDER BY h.validation_set_id

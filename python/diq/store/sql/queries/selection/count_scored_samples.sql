-- How many samples of a dataset each run has a row for; only messages need it, since it reads all scores of the runs.
-- Params: $dataset_id INTEGER, $run_ids BIGINT[]
WITH rows_here AS (
    SELECT run_id, sample_id FROM influence_scores WHERE run_id IN (SELECT unnest($run_ids))
    UNION ALL
    SELECT run_id, sample_id FROM difficulty_scores WHERE run_id IN (SELECT unnest($run_ids))
    UNION ALL
    SELECT run_id, sample_id FROM text_scores WHERE run_id IN (SELECT unnest($run_ids))
)
SELECT s.run_id, count(DISTINCT s.sample_id) AS n
FROM rows_here AS s
JOIN dataset_samples AS d ON d.sample_id = s.sample_id AND d.dataset_id = $dataset_id
GROUP BY s.run_id

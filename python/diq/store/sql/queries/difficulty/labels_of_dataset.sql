-- Difficulty labels of a run for the samples of a dataset, in order; samples without a label of any kind are left out.
-- Params: $dataset_id INTEGER, $run_id BIGINT
-- Returns: position BIGINT, messages VARCHAR, knowledge, reasoning, overall DOUBLE
SELECT
    d.position,
    CAST(s.messages AS VARCHAR) AS messages,
    f.knowledge,
    f.reasoning,
    f.overall
FROM difficulty_scores AS f
JOIN dataset_samples AS d ON d.sample_id = f.sample_id AND d.dataset_id = $dataset_id
JOIN samples AS s ON s.sample_id = f.sample_id
WHERE f.run_id = $run_id AND coalesce(f.knowledge, f.reasoning, f.overall) IS NOT NULL
ORDER BY d.position

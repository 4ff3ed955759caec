-- Distinct values of each dimension: the fewer, the more ties decide the sizes of the quadrants.
-- Params: $run_id BIGINT, $dataset_id INTEGER
SELECT
    count(DISTINCT f.knowledge) AS knowledge,
    count(DISTINCT f.reasoning) AS reasoning,
    count(DISTINCT f.overall) AS overall
FROM difficulty_scores AS f
JOIN dataset_samples AS d ON d.sample_id = f.sample_id AND d.dataset_id = $dataset_id
WHERE f.run_id = $run_id

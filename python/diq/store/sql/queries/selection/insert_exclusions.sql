-- Add what a guard found on a dataset.
-- Params: $run_id BIGINT, $dataset_id INTEGER
-- Reads: incoming (position, reason, kept: position of the sample that it repeats, matched, similarity)
INSERT INTO exclusions (run_id, sample_id, reason, matched, similarity)
SELECT $run_id, d.sample_id, i.reason, coalesce(i.matched, CAST(k.sample_id AS VARCHAR)), i.similarity
FROM incoming AS i
JOIN dataset_samples AS d ON d.dataset_id = $dataset_id AND d.position = i.position
LEFT JOIN dataset_samples AS k ON k.dataset_id = $dataset_id AND k.position = i.kept
ORDER BY i.position

-- Ids of the samples of a validation set; none for a set that came with scores computed elsewhere.
-- Params:  $validation_set_id INTEGER
-- Returns: sample_id VARCHAR
SELECT CAST(v.sample_id AS VARCHAR) AS sample_id
FROM validation_samples AS v
WHERE v.validation_set_id = $validation_set_id
ORDER BY v.position

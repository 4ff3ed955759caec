-- Mark the samples of a dataset that its validation set drew.
-- Params: $validation_set_id, $dataset_id INTEGER
UPDATE dataset_samples SET split = 'validation'
WHERE dataset_id = $dataset_id
  AND sample_id IN (SELECT sample_id FROM validation_samples WHERE validation_set_id = $validation_set_id)

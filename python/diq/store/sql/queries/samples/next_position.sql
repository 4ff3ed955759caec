-- The first free position of a dataset: every row that was read has one, duplicates and rejects too.
-- Params:  $dataset_id INTEGER
-- Returns: position BIGINT
SELECT coalesce(max(first_position + n_rows), 0) AS position
FROM sources
WHERE dataset_id = $dataset_id AND kind = 'samples'

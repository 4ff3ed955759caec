-- Note the rows of a batch that repeat an earlier row of the dataset; runs before insert_dataset_samples.
-- Params: $dataset_id, $source_id INTEGER
-- Reads:  incoming (position BIGINT, sample_id VARCHAR, line BIGINT, repeated BOOLEAN: repeats a row of this batch)
INSERT INTO duplicates (dataset_id, position, sample_id, source_id, line)
SELECT $dataset_id, i.position, CAST(i.sample_id AS UUID), $source_id, i.line
FROM incoming AS i
WHERE i.repeated OR CAST(i.sample_id AS UUID) IN (SELECT sample_id FROM dataset_samples WHERE dataset_id = $dataset_id)
ORDER BY i.position

-- Add the rows of a batch that are new to the dataset.
-- Params: $dataset_id, $source_id INTEGER, $split VARCHAR
-- Reads:  incoming (position BIGINT, sample_id VARCHAR, line BIGINT, attributes VARCHAR, repeated BOOLEAN)
INSERT INTO dataset_samples (dataset_id, position, sample_id, source_id, line, split, attributes)
SELECT $dataset_id, i.position, CAST(i.sample_id AS UUID), $source_id, i.line, $split, i.attributes
FROM incoming AS i
ANTI JOIN (SELECT sample_id FROM dataset_samples WHERE dataset_id = $dataset_id) AS d
    ON d.sample_id = CAST(i.sample_id AS UUID)
WHERE NOT i.repeated
ORDER BY i.position

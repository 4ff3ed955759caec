-- What the samples of a selection look like, so that a Parquet file can have one schema.
-- Params: $dataset_id INTEGER
-- Reads: chosen (position)
SELECT
    coalesce(bool_or(contains(CAST(s.messages AS VARCHAR), '"reasoning_content":')), false) AS has_reasoning,
    coalesce(bool_or(s.rejected IS NOT NULL), false) AS has_rejected
FROM chosen AS c
JOIN dataset_samples AS d ON d.dataset_id = $dataset_id AND d.position = c.position
JOIN samples AS s ON s.sample_id = d.sample_id

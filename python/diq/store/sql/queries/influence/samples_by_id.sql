-- Conversations of some samples, in no particular order.
-- Params:  $sample_ids VARCHAR[]
-- Returns: sample_id VARCHAR, messages VARCHAR
SELECT CAST(sample_id AS VARCHAR) AS sample_id, CAST(messages AS VARCHAR) AS messages
FROM samples
WHERE sample_id IN (SELECT CAST(unnest($sample_ids) AS UUID))

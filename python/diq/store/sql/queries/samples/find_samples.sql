-- Samples whose id lies between two ids (a prefix, filled up with zeros and with f), in the order of their ids.
-- Params: $first UUID, $last UUID, $n BIGINT (the most rows to return)
-- Returns: sample_id, messages, rejected VARCHAR
SELECT CAST(sample_id AS VARCHAR) AS sample_id, CAST(messages AS VARCHAR) AS messages,
    CAST(rejected AS VARCHAR) AS rejected
FROM samples
WHERE sample_id BETWEEN CAST($first AS UUID) AND CAST($last AS UUID)
ORDER BY samples.sample_id
LIMIT $n

-- Every sample as its id was made of it.
-- Returns: sample_id VARCHAR, messages VARCHAR, rejected VARCHAR
SELECT CAST(sample_id AS VARCHAR) AS sample_id, messages, rejected FROM samples

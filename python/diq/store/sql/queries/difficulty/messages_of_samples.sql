-- Texts of some samples, in no particular order.
-- Params: $sample_ids VARCHAR[]
SELECT CAST(s.sample_id AS VARCHAR) AS sample_id, CAST(s.messages AS VARCHAR) AS messages
FROM samples AS s
JOIN (SELECT CAST(unnest($sample_ids) AS UUID) AS sample_id) AS wanted USING (sample_id)

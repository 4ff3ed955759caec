-- Add the text of a batch's samples, except those that the store knows, from whatever dataset.
-- Reads: incoming (sample_id VARCHAR, messages VARCHAR, rejected VARCHAR, repeated BOOLEAN)
INSERT INTO samples (sample_id, messages, rejected)
SELECT CAST(i.sample_id AS UUID), i.messages, i.rejected
FROM incoming AS i
ANTI JOIN samples AS s ON s.sample_id = CAST(i.sample_id AS UUID)
WHERE NOT i.repeated

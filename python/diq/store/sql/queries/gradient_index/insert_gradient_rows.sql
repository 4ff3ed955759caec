-- Add the samples of a shard (or those without a gradient), except those that the index has.
-- Reads: incoming (run_id, sample_id BLOB, shard, row, loss, answer_tokens, reason)
INSERT INTO gradient_rows (run_id, sample_id, shard, "row", loss, answer_tokens, reason)
SELECT i.run_id, CAST(i.sample_id AS UUID), i.shard, i."row", i.loss, i.answer_tokens, i.reason
FROM incoming AS i
ANTI JOIN gradient_rows AS g ON g.run_id = i.run_id AND g.sample_id = CAST(i.sample_id AS UUID)

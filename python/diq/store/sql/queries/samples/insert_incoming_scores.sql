-- Add a batch of a score file.
-- Reads: incoming, with the columns of incoming_scores
INSERT INTO incoming_scores
SELECT
    line, sample_id, position, knowledge, reasoning, overall, dot, perplexity, similarity, reason, content
FROM incoming

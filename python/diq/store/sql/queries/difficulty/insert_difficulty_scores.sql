-- Add the difficulty of a shard, except what is there.
-- Reads: incoming (run_id, sample_id BLOB or VARCHAR, knowledge, reasoning, overall, their levels, and reason)
INSERT INTO difficulty_scores (
    run_id, sample_id, knowledge, reasoning, overall, knowledge_level, reasoning_level, overall_level, reason
)
SELECT
    i.run_id, CAST(i.sample_id AS UUID), i.knowledge, i.reasoning, i.overall,
    i.knowledge_level, i.reasoning_level, i.overall_level, i.reason
FROM incoming AS i
ANTI JOIN difficulty_scores AS f ON f.run_id = i.run_id AND f.sample_id = CAST(i.sample_id AS UUID)

-- Give samples whose question had an unreadable reply the difficulty of a later one that was read, in every dataset.
-- Params: $run_id BIGINT
UPDATE difficulty_scores AS f
SET
    knowledge = r.knowledge,
    reasoning = r.reasoning,
    overall = r.overall,
    knowledge_level = r.knowledge,
    reasoning_level = r.reasoning,
    overall_level = r.overall,
    reason = NULL
FROM (
    SELECT
        j.item_id,
        max(j.score) FILTER (WHERE j.dimension = 'knowledge') AS knowledge,
        max(j.score) FILTER (WHERE j.dimension = 'reasoning') AS reasoning,
        max(j.score) FILTER (WHERE j.dimension = 'overall') AS overall
    FROM judgments AS j
    WHERE j.run_id = $run_id
    GROUP BY j.item_id
) AS r
WHERE f.run_id = $run_id AND f.reason IS NOT NULL AND f.item_id = r.item_id

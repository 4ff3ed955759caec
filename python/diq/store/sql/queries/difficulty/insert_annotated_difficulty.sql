-- Add the difficulty of samples whose questions a language model rated, except those that are there; a question whose
-- reply could not be read twice (an attempt with an even number) is a row with the reason. Questions without a reply
-- get no row.
-- Params: $run_id BIGINT
-- Reads:  incoming (sample_id, item_id VARCHAR)
WITH wanted AS (
    SELECT CAST(i.sample_id AS UUID) AS sample_id, CAST(i.item_id AS UUID) AS item_id
    FROM incoming AS i
    ANTI JOIN difficulty_scores AS f ON f.run_id = $run_id AND f.sample_id = CAST(i.sample_id AS UUID)
),
rated AS (
    SELECT
        j.item_id,
        max(j.score) FILTER (WHERE j.dimension = 'knowledge') AS knowledge,
        max(j.score) FILTER (WHERE j.dimension = 'reasoning') AS reasoning,
        max(j.score) FILTER (WHERE j.dimension = 'overall') AS overall,
        NULL AS reason
    FROM judgments AS j
    WHERE j.run_id = $run_id AND j.item_id IN (SELECT item_id FROM wanted)
    GROUP BY j.item_id
),
unread AS (
    SELECT r.item_id, max_by(r.problem, r.attempt) AS reason
    FROM replies AS r
    WHERE r.run_id = $run_id AND r.content IS NOT NULL AND r.item_id IN (SELECT item_id FROM wanted)
    GROUP BY r.item_id
    HAVING NOT bool_or(r.parsing IS NOT NULL) AND max(r.attempt) % 2 = 0
)
INSERT INTO difficulty_scores (
    run_id, sample_id, item_id, knowledge, reasoning, overall, knowledge_level, reasoning_level, overall_level, reason
)
SELECT
    $run_id, w.sample_id, w.item_id, r.knowledge, r.reasoning, r.overall, r.knowledge, r.reasoning, r.overall, r.reason
FROM wanted AS w
JOIN (
    SELECT item_id, knowledge, reasoning, overall, reason FROM rated
    UNION ALL
    SELECT item_id, NULL, NULL, NULL, 'the reply could not be read: ' || reason FROM unread
) AS r USING (item_id)

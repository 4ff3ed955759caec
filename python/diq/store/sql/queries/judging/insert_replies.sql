-- Add replies as they came, except those that are there.
-- Reads: incoming (run_id, item_id VARCHAR, attempt and the further columns of replies)
INSERT INTO replies (
    run_id, item_id, attempt, content, finish_reason, parsing, problem,
    prompt_tokens, completion_tokens, retries, seconds, answered_at
)
SELECT
    i.run_id, CAST(i.item_id AS UUID), i.attempt, i.content, i.finish_reason, i.parsing, i.problem,
    i.prompt_tokens, i.completion_tokens, i.retries, i.seconds, i.answered_at
FROM incoming AS i
ANTI JOIN replies AS r
    ON r.run_id = i.run_id AND r.item_id = CAST(i.item_id AS UUID) AND r.attempt = i.attempt

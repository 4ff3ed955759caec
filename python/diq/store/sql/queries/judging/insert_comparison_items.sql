-- Add what the arms of a comparison drew.
-- Params: $comparison_id BIGINT
-- Reads: incoming (arm, number, item_id VARCHAR, sample_id VARCHAR, question, answer)
INSERT INTO comparison_items (comparison_id, arm, number, item_id, sample_id, question, answer)
SELECT
    $comparison_id, i.arm, i.number, CAST(i.item_id AS UUID), CAST(i.sample_id AS UUID), i.question, i.answer
FROM incoming AS i
ORDER BY i.number, i.arm

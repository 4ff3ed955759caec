-- The samples of some validation sets, in the order of the sets and within them, and whether a run lacks a row of each.
-- Params:  $run_id BIGINT (null: there is none yet), $validation_set_ids INTEGER[]
-- Returns: validation_set_id INTEGER, sample_id BLOB (16 bytes), messages VARCHAR, missing BOOLEAN
SELECT
    v.validation_set_id,
    CAST(v.sample_id AS BLOB) AS sample_id,
    CAST(s.messages AS VARCHAR) AS messages,
    t.sample_id IS NULL AS missing
FROM validation_samples AS v
JOIN samples AS s USING (sample_id)
LEFT JOIN (SELECT DISTINCT sample_id FROM text_scores WHERE run_id = CAST($run_id AS BIGINT)) AS t USING (sample_id)
WHERE list_contains(CAST($validation_set_ids AS INTEGER[]), v.validation_set_id)
ORDER BY v.validation_set_id, v.position

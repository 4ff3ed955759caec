-- Texts of a validation set, in its order.
-- Params: $validation_set_id INTEGER
-- Returns: sample_id UUID, messages JSON
SELECT v.sample_id, s.messages
FROM validation_samples AS v
JOIN samples AS s USING (sample_id)
WHERE v.validation_set_id = $validation_set_id
ORDER BY v.position

-- Texts of a validation set with their positions in the dataset that it was drawn from, in that order.
-- Params: $validation_set_id INTEGER
SELECT v.position, CAST(s.messages AS VARCHAR) AS messages
FROM validation_samples AS v
JOIN samples AS s USING (sample_id)
WHERE v.validation_set_id = $validation_set_id
ORDER BY v.position

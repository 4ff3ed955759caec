-- The finite dots of one validation set.
-- Params: $validation_set_id INTEGER
-- Reads:  scored
SELECT d.position, d.dot FROM scored AS d WHERE d.validation_set_id = $validation_set_id AND d.dot IS NOT NULL

-- Positions of the samples of a selection, in rank order.
-- Params: $selection_id BIGINT
SELECT position FROM selection_samples WHERE selection_id = $selection_id ORDER BY rank

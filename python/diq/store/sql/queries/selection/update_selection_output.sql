-- The same selection was written to another file.
-- Params: $selection_id BIGINT, $output VARCHAR
UPDATE selections SET output = coalesce($output, output) WHERE selection_id = $selection_id

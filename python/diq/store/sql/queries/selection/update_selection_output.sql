-- The same selection was asked for again: its name means it from now on; its file may be another one.
-- Params: $selection_id BIGINT, $output VARCHAR, $created_at TIMESTAMP
UPDATE selections
SET output = coalesce($output, output), created_at = $created_at
WHERE selection_id = $selection_id

-- The recorded selection that a number or a name means: the number first, then the latest selection of the name.
-- Params: $selection_id BIGINT (null when the text is no number), $name VARCHAR
-- Returns: selection_id BIGINT, name VARCHAR, n BIGINT
SELECT selection_id, name, n
FROM selections
WHERE selection_id = $selection_id OR name = $name
ORDER BY selection_id = $selection_id DESC NULLS LAST, created_at DESC, selection_id DESC
LIMIT 1

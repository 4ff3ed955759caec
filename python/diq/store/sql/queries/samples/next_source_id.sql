-- A number for a new source.
-- Returns: source_id INTEGER
SELECT nextval('source_ids') AS source_id

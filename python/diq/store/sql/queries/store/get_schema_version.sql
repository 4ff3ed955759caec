-- Number of the last migration that the store has been through.
-- Returns: version INTEGER
SELECT coalesce(max(version), 0) AS version FROM schema_migrations

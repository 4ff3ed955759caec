-- Record a migration in the transaction that applied it.
-- Params: $version INTEGER, $name VARCHAR, $applied_at TIMESTAMP
INSERT INTO schema_migrations (version, name, applied_at) VALUES ($version, $name, $applied_at)

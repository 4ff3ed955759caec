-- The store itself. The files of this folder make a new store; a change of the schema is written here, and as the next
-- migration for the stores that are there (tests/store/test_schema.py holds the two against each other).

CREATE TABLE schema_migrations (
    version INTEGER PRIMARY KEY,
    name VARCHAR NOT NULL,
    applied_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE schema_migrations IS 'Schema changes that this store has been through.';
COMMENT ON COLUMN schema_migrations.version IS 'Number of the migration.';
COMMENT ON COLUMN schema_migrations.name IS 'Name of its file.';
COMMENT ON COLUMN schema_migrations.applied_at IS 'When it was applied (UTC).';

CREATE TABLE settings (
    name VARCHAR PRIMARY KEY,
    value VARCHAR NOT NULL
);
COMMENT ON TABLE settings IS 'Facts about this store itself, such as which macros it holds.';
COMMENT ON COLUMN settings.name IS 'Name of the fact.';
COMMENT ON COLUMN settings.value IS 'Its value as text.';

-- Names of all tables of the opened file; tells a store from another DuckDB file.
-- Returns: table_name VARCHAR
SELECT table_name FROM duckdb_tables() WHERE NOT internal

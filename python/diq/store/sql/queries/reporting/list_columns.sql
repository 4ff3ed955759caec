-- Tables and views with their columns.
SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal ORDER BY ALL

-- The memory that DuckDB may use, as text (18.8 GiB): of its own accord four fifths of what there is.
-- Returns: memory_limit VARCHAR
SELECT current_setting('memory_limit') AS memory_limit

-- Keep DuckDB below what a laptop can spare, whatever the size of a dataset; the rest goes to temporary files.
SET memory_limit = '500MB'

-- Keep DuckDB small while rows stream in; what does not fit goes to its temporary files beside the store.
-- Params: $limit VARCHAR (such as 256MiB)
SET memory_limit = $limit

-- Keep DuckDB small while rows stream in; what does not fit goes to its temporary files beside the store.
SET memory_limit = '256MB'

-- What validations found, oldest first.
-- Returns: run_id BIGINT, result JSON
SELECT run_id, result FROM runs WHERE kind = 'validate' AND result IS NOT NULL ORDER BY run_id

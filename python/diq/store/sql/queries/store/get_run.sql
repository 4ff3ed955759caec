-- A run by its number.
-- Params: $run_id BIGINT
SELECT run_id, kind, method, model_id, fingerprint, config, result FROM runs WHERE run_id = $run_id

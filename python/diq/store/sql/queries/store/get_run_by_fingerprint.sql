-- A run by its configuration.
-- Params: $fingerprint VARCHAR
SELECT run_id, kind, method, model_id, config, result FROM runs WHERE fingerprint = $fingerprint

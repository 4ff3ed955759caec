-- Record a run unless the same configuration is known.
-- Params: $kind, $method, $model_id, $fingerprint, $config, $environment VARCHAR, $created_at TIMESTAMP
INSERT INTO runs (run_id, kind, method, model_id, fingerprint, config, environment, created_at)
SELECT nextval('run_ids'), $kind, $method, $model_id, $fingerprint, $config, $environment, $created_at
WHERE NOT EXISTS (SELECT 1 FROM runs WHERE fingerprint = $fingerprint)

-- Record a model unless it is known.
-- Params: $model_id, $name, $source, $architecture VARCHAR, $n_parameters BIGINT, $added_at TIMESTAMP
INSERT INTO models (model_id, name, source, architecture, n_parameters, added_at)
SELECT $model_id, $name, $source, $architecture, $n_parameters, $added_at
WHERE NOT EXISTS (SELECT 1 FROM models WHERE model_id = $model_id)

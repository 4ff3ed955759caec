-- Record which training made a model, unless it is known.
-- Params: $model_id, $run_id, $base_model_id, $start_model_id, $folder, $dataset_id, $selection_id, $created_at
INSERT INTO trained_models
SELECT $model_id, $run_id, $base_model_id, $start_model_id, $folder, $dataset_id, $selection_id, $created_at
WHERE NOT EXISTS (SELECT 1 FROM trained_models AS t WHERE t.model_id = $model_id AND t.run_id = $run_id)

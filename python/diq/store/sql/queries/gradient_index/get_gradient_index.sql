-- The gradient index of a run.
-- Params: $run_id BIGINT
SELECT folder, kind, dim, element, created_at FROM gradient_indexes WHERE run_id = $run_id

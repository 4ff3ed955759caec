-- Folder of the gradient index of a run.
-- Params: $run_id BIGINT
SELECT folder FROM gradient_indexes WHERE run_id = $run_id

-- Runs that a combined run adds up.
-- Params: $run_id BIGINT
SELECT part_run_id, weight FROM run_parts WHERE run_id = $run_id ORDER BY part_run_id

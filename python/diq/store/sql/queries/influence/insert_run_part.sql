-- Note that a combined run adds up a run.
-- Params: $run_id BIGINT, $part_run_id BIGINT, $weight DOUBLE
INSERT INTO run_parts (run_id, part_run_id, weight)
SELECT $run_id, $part_run_id, $weight
WHERE NOT EXISTS (SELECT 1 FROM run_parts WHERE run_id = $run_id AND part_run_id = $part_run_id)

-- Keep what came out of a run.
-- Params: $run_id BIGINT, $result VARCHAR
UPDATE runs SET result = $result WHERE run_id = $run_id

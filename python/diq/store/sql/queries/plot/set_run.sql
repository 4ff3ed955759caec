-- Name the influence run that the temporary view `drawn_dots` shows.
-- Params: $run_id BIGINT
SET VARIABLE drawn_run = $run_id

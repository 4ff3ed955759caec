-- The files that hold a run's answers to a benchmark, once over, in their order.
-- Params:  $run_id BIGINT, $benchmark, $questions VARCHAR, $repeat INTEGER
-- Returns: part, path, n_rows, n_questions, checksum
SELECT part, path, n_rows, n_questions, checksum
FROM generation_files
WHERE run_id = $run_id AND benchmark = $benchmark AND questions = $questions AND repeat = $repeat
ORDER BY part

-- Forget a file of answers that is lost.
-- Params: $run_id BIGINT, $benchmark, $questions VARCHAR, $repeat, $part INTEGER
DELETE FROM generation_files
WHERE run_id = $run_id AND benchmark = $benchmark AND questions = $questions AND repeat = $repeat AND part = $part

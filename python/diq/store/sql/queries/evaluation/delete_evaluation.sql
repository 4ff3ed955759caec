-- Make room for numbers of the same answers by the same rules.
-- Params: $run_id BIGINT, $benchmark, $questions VARCHAR, $repeat INTEGER, $scoring VARCHAR
DELETE FROM evaluations
WHERE run_id = $run_id AND benchmark = $benchmark AND questions = $questions AND repeat = $repeat AND scoring = $scoring

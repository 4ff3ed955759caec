-- Accuracy of a run's answers to a benchmark, once over, by each version of the rules.
-- Params:  $run_id BIGINT, $benchmark, $questions VARCHAR, $repeat INTEGER
-- Returns: scoring, accuracy
SELECT scoring, accuracy
FROM evaluations
WHERE run_id = $run_id AND benchmark = $benchmark AND questions = $questions AND repeat = $repeat
ORDER BY created_at

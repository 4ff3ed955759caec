-- Record the numbers of a run's answers to a benchmark, once over.
-- Params: $run_id BIGINT, $benchmark, $questions VARCHAR, $repeat INTEGER, $scoring VARCHAR, $n, $n_right, $n_by_option,
--         $n_by_text, $n_unanswered, $n_cut, $n_right_strict BIGINT, $accuracy, $standard_error DOUBLE,
--         $created_at TIMESTAMP
INSERT INTO evaluations (
    run_id, benchmark, questions, repeat, scoring, n, n_right, n_by_option, n_by_text, n_unanswered, n_cut,
    n_right_strict, accuracy, standard_error, created_at
)
VALUES (
    $run_id, $benchmark, $questions, $repeat, $scoring, $n, $n_right, $n_by_option, $n_by_text, $n_unanswered, $n_cut,
    $n_right_strict, $accuracy, $standard_error, $created_at
)

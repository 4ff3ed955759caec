-- Index a file of answers that was written.
-- Params: $run_id BIGINT, $benchmark, $questions VARCHAR, $repeat, $part INTEGER, $path VARCHAR, $n_rows, $n_questions
--         BIGINT, $checksum VARCHAR, $created_at TIMESTAMP
INSERT INTO generation_files
    (run_id, benchmark, questions, repeat, part, path, n_rows, n_questions, checksum, created_at)
VALUES ($run_id, $benchmark, $questions, $repeat, $part, $path, $n_rows, $n_questions, $checksum, $created_at)

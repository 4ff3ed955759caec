-- Every file of answers.
SELECT run_id, benchmark, questions, repeat, part, path, n_rows, checksum
FROM generation_files
ORDER BY ALL

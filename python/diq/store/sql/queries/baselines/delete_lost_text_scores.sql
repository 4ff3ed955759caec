-- Forget the text scores of samples whose embedding is lost: they are missing again.
-- Params: $run_id BIGINT
DELETE FROM text_scores
WHERE
    run_id = $run_id
    AND sample_id NOT IN (SELECT g.sample_id FROM gradient_rows AS g WHERE g.run_id = $run_id)

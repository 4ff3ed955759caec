-- How many samples of each dataset have each score, by run and validation set (or dimension of difficulty). The method
-- of a preconditioned run says by what.
SELECT
    c.dataset,
    c.score,
    c.dimension,
    c.model,
    c.validation_set,
    c.run_id,
    concat_ws(', ', c.method, r.config ->> '$.precondition') AS method,
    c.state,
    c.n_scored,
    c.n_samples
FROM score_coverage AS c
JOIN runs AS r USING (run_id)
ORDER BY
    c.dataset, c.score, c.run_id, c.validation_set, list_position(['knowledge', 'reasoning', 'overall'], c.dimension)

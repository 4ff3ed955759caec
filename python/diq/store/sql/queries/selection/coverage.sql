-- How many samples of each dataset have each score, by run and validation set (or dimension of difficulty).
SELECT dataset, score, dimension, model, validation_set, run_id, method, state, n_scored, n_samples
FROM score_coverage
ORDER BY dataset, score, run_id, validation_set, list_position(['knowledge', 'reasoning', 'overall'], dimension)

-- Rows of a run whose dots are with another number of folds than the run recorded.
-- Params: $run_id BIGINT
-- Returns: n BIGINT
SELECT count(*) AS n
FROM influence_scores AS i
JOIN run_validation_sets AS rv ON rv.run_id = i.run_id AND rv.validation_set_id = i.validation_set_id
WHERE i.run_id = $run_id AND len(i.fold_dots) <> len(rv.fold_sizes)

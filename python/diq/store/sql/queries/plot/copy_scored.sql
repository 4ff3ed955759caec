-- The dots of a run on one of its datasets, for this connection alone.
-- Params: $dataset_id INTEGER, $run_id BIGINT
CREATE OR REPLACE TEMP TABLE scored AS
SELECT
    i.validation_set_id::USMALLINT AS validation_set_id,
    CASE WHEN isfinite(i.dot) THEN i.dot END AS dot,
    -- the squared standard error of the mean of the folds
    CASE WHEN len(i.fold_dots) > 1 THEN list_var_samp(i.fold_dots) / len(i.fold_dots) END AS squared_error
FROM influence_scores AS i
JOIN dataset_samples AS s ON s.sample_id = i.sample_id AND s.dataset_id = $dataset_id
WHERE i.run_id = $run_id

-- The dots of a run whose scores all belong to one dataset, so that no join has to tell which ones do.
CREATE OR REPLACE TEMP VIEW drawn_dots AS
SELECT
    i.validation_set_id,
    CASE WHEN isfinite(i.dot) THEN i.dot END AS dot,
    -- the squared standard error of the mean of the folds
    CASE WHEN len(i.fold_dots) > 1 THEN list_var_samp(i.fold_dots) / len(i.fold_dots) END AS squared_error
FROM influence_scores AS i
WHERE i.run_id = getvariable('drawn_run')

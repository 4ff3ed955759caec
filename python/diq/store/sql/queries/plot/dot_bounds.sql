-- Range, quartiles and the typical standard error of the dots of one validation set over a dataset.
-- Params: $dataset_id INTEGER, $run_id BIGINT, $validation_set_id INTEGER
WITH dots AS (
    SELECT
        i.dot,
        CASE WHEN len(i.fold_dots) > 1 THEN list_var_samp(i.fold_dots) / len(i.fold_dots) END AS squared_error
    FROM influence_scores AS i
    SEMI JOIN dataset_samples AS s ON s.dataset_id = $dataset_id AND s.sample_id = i.sample_id
    WHERE i.run_id = $run_id AND i.validation_set_id = $validation_set_id
)
SELECT
    count(*) FILTER (WHERE isfinite(d.dot)) AS n,
    count(*) FILTER (WHERE d.dot IS NULL OR NOT isfinite(d.dot)) AS n_without,
    min(d.dot) FILTER (WHERE isfinite(d.dot)) AS low,
    max(d.dot) FILTER (WHERE isfinite(d.dot)) AS high,
    quantile_cont(d.dot, 0.25) FILTER (WHERE isfinite(d.dot)) AS lower_quartile,
    quantile_cont(d.dot, 0.5) FILTER (WHERE isfinite(d.dot)) AS median,
    quantile_cont(d.dot, 0.75) FILTER (WHERE isfinite(d.dot)) AS upper_quartile,
    quantile_cont(abs(d.dot), 0.9) FILTER (WHERE isfinite(d.dot)) AS scale,
    sqrt(avg(d.squared_error) FILTER (WHERE isfinite(d.squared_error))) AS standard_error
FROM dots AS d

-- Range, quartiles and the typical standard error of the dots of one validation set over a dataset.
-- Params: $validation_set_id INTEGER
-- Reads:  drawn_dots
SELECT
    count(d.dot) AS n,
    count(*) - count(d.dot) AS n_without,
    min(d.dot) AS low,
    max(d.dot) AS high,
    quantile_cont(d.dot, [0.25, 0.5, 0.75]) AS quartiles,
    quantile_cont(abs(d.dot), 0.9) FILTER (WHERE d.dot <> 0) AS scale,
    sqrt(avg(d.squared_error) FILTER (WHERE isfinite(d.squared_error))) AS standard_error
FROM drawn_dots AS d
WHERE d.validation_set_id = $validation_set_id

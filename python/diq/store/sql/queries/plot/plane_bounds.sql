-- What the bins of the plane are laid over: ranges, the size that nine in ten dots other than zero stay below, whether levels are whole numbers.
-- Reads:  ranked
SELECT
    count(*) AS n,
    min(r.difficulty) AS level_low,
    max(r.difficulty) AS level_high,
    bool_and(r.difficulty = round(r.difficulty)) AS is_whole,
    min(r.dot) AS dot_low,
    max(r.dot) AS dot_high,
    quantile_cont(abs(r.dot), 0.9) FILTER (WHERE r.dot <> 0) AS dot_scale
FROM ranked AS r

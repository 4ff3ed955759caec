-- Samples by their place in the rankings of the two halves of the validation samples, in shares of the whole.
-- Params: $n BIGINT (samples that are ranked), $bins INTEGER
-- Reads:  ranked
SELECT
    least($bins - 1, r.even_rank * $bins // $n)::UTINYINT AS x,
    least($bins - 1, r.odd_rank * $bins // $n)::UTINYINT AS y,
    count(*) AS n
FROM ranked AS r
WHERE r.even_rank IS NOT NULL AND r.odd_rank IS NOT NULL
GROUP BY x, y
ORDER BY x, y

-- How many of the first n of one half's ranking the other half's first n hold.
-- Params: $n BIGINT
-- Reads:  ranked
SELECT
    count(*) FILTER (WHERE r.even_rank < $n AND r.odd_rank < $n) AS common,
    count(*) FILTER (WHERE r.even_rank < $n) AS one,
    count(*) FILTER (WHERE r.odd_rank < $n) AS other
FROM ranked AS r

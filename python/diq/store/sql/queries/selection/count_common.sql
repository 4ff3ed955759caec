-- How many samples two rankings, by one half of the validation samples each, both select.
-- Params: $ranking_id BIGINT, $even_first, $even_n, $odd_first, $odd_n BIGINT (the range of ranks that each selects)
SELECT count(*) AS n
FROM ranking_samples
WHERE
    ranking_id = $ranking_id
    AND even_rank >= $even_first AND even_rank < $even_first + $even_n
    AND odd_rank >= $odd_first AND odd_rank < $odd_first + $odd_n

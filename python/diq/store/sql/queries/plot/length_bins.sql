-- Quartiles of the dot by the number of answer tokens, a bin a third of an octave, and how much of a bin was selected.
-- Params: $validation_set_id INTEGER (any one of the run: all count the same tokens)
-- Reads:  scored, ranked, chosen
SELECT
    floor(3 * log2(t.answer_tokens))::SMALLINT AS bin,
    min(t.answer_tokens) AS low,
    max(t.answer_tokens) AS high,
    count(*) AS n,
    count(c.position) AS taken,
    quantile_cont(r.dot, [0.1, 0.25, 0.5, 0.75, 0.9]) AS dots
FROM scored AS t
JOIN ranked AS r ON r.position = t.position
LEFT JOIN chosen AS c ON c.position = t.position
WHERE t.validation_set_id = $validation_set_id AND t.answer_tokens > 0
GROUP BY bin
ORDER BY bin

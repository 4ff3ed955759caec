-- Quartiles of the dot by the number of answer tokens, a bin a third of an octave, and how much of a bin was selected.
-- Params: $dataset_id INTEGER, $run_id BIGINT, $validation_set_id INTEGER (any one of the run: all count the same tokens)
-- Reads:  ranked, chosen
WITH tokens AS (
    SELECT s.position, floor(3 * log2(i.answer_tokens))::SMALLINT AS bin, i.answer_tokens
    FROM influence_scores AS i
    JOIN dataset_samples AS s ON s.dataset_id = $dataset_id AND s.sample_id = i.sample_id
    WHERE i.run_id = $run_id AND i.validation_set_id = $validation_set_id AND i.answer_tokens > 0
)
SELECT
    t.bin,
    min(t.answer_tokens) AS low,
    max(t.answer_tokens) AS high,
    count(*) AS n,
    count(c.position) AS taken,
    quantile_cont(r.dot, [0.1, 0.25, 0.5, 0.75, 0.9]) AS dots
FROM tokens AS t
JOIN ranked AS r ON r.position = t.position
LEFT JOIN chosen AS c ON c.position = t.position
GROUP BY t.bin
ORDER BY t.bin

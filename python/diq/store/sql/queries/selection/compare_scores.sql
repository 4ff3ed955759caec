-- Distribution of the scores of a selection, or of its whole dataset. Difficulty and dot are those that a ranking holds.
-- Params: $dataset_id INTEGER; $ranking_id BIGINT (null: the whole dataset), $first, $n BIGINT;
--         $difficulty_ranking, $dot_ranking, $influence_run BIGINT (null: that score is left out)
WITH chosen AS (
    SELECT d.position, d.sample_id
    FROM dataset_samples AS d
    WHERE
        d.dataset_id = $dataset_id
        AND (
            $ranking_id IS NULL
            OR d.position IN (
                SELECT r.position
                FROM ranking_samples AS r
                WHERE r.ranking_id = $ranking_id AND r.rank >= $first AND r.rank < $first + $n
            )
        )
),
-- loss and length are the same for every validation set
measured AS (
    SELECT i.sample_id, i.loss, i.answer_tokens
    FROM influence_scores AS i
    WHERE
        i.run_id = $influence_run
        AND i.validation_set_id = (
            SELECT min(v.validation_set_id) FROM run_validation_sets AS v WHERE v.run_id = $influence_run
        )
),
columns AS (
    SELECT f.difficulty, g.dot, m.loss, CAST(m.answer_tokens AS DOUBLE) AS answer_tokens
    FROM chosen AS c
    LEFT JOIN ranking_samples AS f ON f.ranking_id = $difficulty_ranking AND f.position = c.position
    LEFT JOIN ranking_samples AS g ON g.ranking_id = $dot_ranking AND g.position = c.position
    LEFT JOIN measured AS m ON m.sample_id = c.sample_id
),
long AS (
    SELECT unnest([
        {'place': 1, 'score': 'difficulty', 'value': c.difficulty},
        {'place': 2, 'score': 'dot', 'value': c.dot},
        {'place': 3, 'score': 'loss', 'value': c.loss},
        {'place': 4, 'score': 'answer_tokens', 'value': c.answer_tokens}
    ], recursive := true)
    FROM columns AS c
)
SELECT
    l.score,
    count(*) AS n,
    min(l.value) AS min,
    quantile_cont(l.value, 0.1) AS p10,
    median(l.value) AS median,
    quantile_cont(l.value, 0.9) AS p90,
    max(l.value) AS max,
    avg(l.value) AS mean
FROM long AS l
WHERE isfinite(l.value)
GROUP BY l.place, l.score
ORDER BY l.place

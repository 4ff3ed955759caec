-- Samples at some ranks of a ranking, with their texts and what is known of them.
-- Params: $dataset_id INTEGER, $ranking_id, $first, $n BIGINT, $influence_run BIGINT (null: none)
WITH facts AS (
    SELECT i.sample_id, any_value(i.loss) AS loss, any_value(i.answer_tokens) AS answer_tokens
    FROM influence_scores AS i
    SEMI JOIN (
        SELECT d.sample_id
        FROM ranking_samples AS c
        JOIN dataset_samples AS d ON d.dataset_id = $dataset_id AND d.position = c.position
        WHERE c.ranking_id = $ranking_id AND c.rank >= $first AND c.rank < $first + $n
    ) AS w ON w.sample_id = i.sample_id
    WHERE i.run_id = $influence_run
    GROUP BY i.sample_id
)
SELECT
    c.rank,
    c.position,
    CAST(d.sample_id AS VARCHAR) AS sample_id,
    o.path AS source,
    d.line,
    c.quadrant,
    c.difficulty,
    c.dot,
    c.score,
    f.loss,
    f.answer_tokens,
    CAST(s.messages AS VARCHAR) AS messages,
    CAST(s.rejected AS VARCHAR) AS rejected
FROM ranking_samples AS c
JOIN dataset_samples AS d ON d.dataset_id = $dataset_id AND d.position = c.position
LEFT JOIN samples AS s ON s.sample_id = d.sample_id
LEFT JOIN sources AS o ON o.dataset_id = $dataset_id AND o.source_id = d.source_id
LEFT JOIN facts AS f ON f.sample_id = d.sample_id
WHERE c.ranking_id = $ranking_id AND c.rank >= $first AND c.rank < $first + $n
ORDER BY c.rank

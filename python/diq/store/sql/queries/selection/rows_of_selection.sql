-- The samples of a selection in the order of its file, as they are written to it. A weight is the dot (or the similarity,
-- where the strategy ranks by one), 0 where it is negative, over its mean; 1 where none is positive.
-- Params: $dataset_id INTEGER, $ranking_id, $first, $n BIGINT, $file_order VARCHAR (easy, hard; null: as ranked)
SELECT
    CAST(s.messages AS VARCHAR) AS messages,
    CAST(s.rejected AS VARCHAR) AS rejected,
    CAST(d.sample_id AS VARCHAR) AS sample_id,
    c.position,
    c.quadrant,
    c.rank - $first AS rank,
    c.difficulty,
    c.dot,
    c.score,
    row_number() OVER in_file - 1 AS "order",
    coalesce(
        greatest(coalesce(c.dot, c.score), 0) / nullif(avg(greatest(coalesce(c.dot, c.score), 0)) OVER (), 0), 1
    ) AS weight
FROM ranking_samples AS c
JOIN dataset_samples AS d ON d.dataset_id = $dataset_id AND d.position = c.position
JOIN samples AS s ON s.sample_id = d.sample_id
WHERE c.ranking_id = $ranking_id AND c.rank >= $first AND c.rank < $first + $n
WINDOW
    in_file AS (
        ORDER BY CASE $file_order WHEN 'easy' THEN c.difficulty WHEN 'hard' THEN -c.difficulty END, c.rank
    )
ORDER BY "order"

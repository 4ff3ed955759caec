-- At most n samples of a dataset, spread evenly over it.
-- Params:  $dataset_id INTEGER, $n BIGINT
-- Returns: messages VARCHAR
WITH numbered AS (
    SELECT sample_id, position, row_number() OVER (ORDER BY position) - 1 AS place, count(*) OVER () AS n_all
    FROM dataset_samples
    WHERE dataset_id = $dataset_id
),
chosen AS (
    SELECT sample_id, position FROM numbered
    -- the first of each of n parts of equal size
    WHERE place = 0 OR place * $n // n_all > (place - 1) * $n // n_all
)
SELECT CAST(s.messages AS VARCHAR) AS messages
FROM chosen AS c
JOIN samples AS s ON s.sample_id = c.sample_id
ORDER BY c.position

-- Some samples of a dataset for the judge, drawn by a seed: a larger draw begins with the smaller one. base/draws.py
-- lists the forms of draws; stores hold what this one drew.
-- Params: $dataset_id INTEGER, $selection_id BIGINT, $taken BOOLEAN (true: what the selection took; false: what it did
--         not; null: the whole dataset), $seed BIGINT, $n BIGINT
-- Returns: sample_id VARCHAR, messages VARCHAR
WITH chosen AS (SELECT sample_id FROM selection_samples WHERE selection_id = $selection_id),
drawn AS (
    SELECT d.sample_id, md5(CAST(d.sample_id AS VARCHAR) || '/' || CAST($seed AS VARCHAR)) AS lot
    FROM dataset_samples AS d
    WHERE
        d.dataset_id = $dataset_id
        AND ($taken IS NULL OR (d.sample_id IN (SELECT c.sample_id FROM chosen AS c)) = $taken)
    ORDER BY lot
    LIMIT $n
)
SELECT CAST(d.sample_id AS VARCHAR) AS sample_id, CAST(s.messages AS VARCHAR) AS messages
FROM drawn AS d
JOIN samples AS s USING (sample_id)
ORDER BY d.lot

-- Take difficulty from columns that came with the data; a row without a finite number gets a reason instead.
-- Params: $run_id BIGINT, $dataset_id INTEGER, $knowledge, $reasoning, $overall VARCHAR (column names or null)
INSERT INTO difficulty_scores (run_id, sample_id, knowledge, reasoning, overall, reason)
WITH columns AS (
    -- as JSON pointers, where ~ and / alone are special: in a JSON path, quotes in a name are an error
    SELECT
        '/' || replace(replace(CAST($knowledge AS VARCHAR), '~', '~0'), '/', '~1') AS knowledge,
        '/' || replace(replace(CAST($reasoning AS VARCHAR), '~', '~0'), '/', '~1') AS reasoning,
        '/' || replace(replace(CAST($overall AS VARCHAR), '~', '~0'), '/', '~1') AS overall
),
picked AS (
    SELECT
        d.sample_id,
        try_cast(json_extract_string(d.attributes, c.knowledge) AS DOUBLE) AS knowledge,
        try_cast(json_extract_string(d.attributes, c.reasoning) AS DOUBLE) AS reasoning,
        try_cast(json_extract_string(d.attributes, c.overall) AS DOUBLE) AS overall
    FROM dataset_samples AS d
    CROSS JOIN columns AS c
    ANTI JOIN difficulty_scores AS f ON f.run_id = $run_id AND f.sample_id = d.sample_id
    WHERE d.dataset_id = $dataset_id
)
SELECT
    CAST($run_id AS BIGINT),
    p.sample_id,
    CASE WHEN isfinite(p.knowledge) THEN p.knowledge END,
    CASE WHEN isfinite(p.reasoning) THEN p.reasoning END,
    CASE WHEN isfinite(p.overall) THEN p.overall END,
    CASE
        WHEN NOT coalesce(isfinite(p.knowledge), false)
            AND NOT coalesce(isfinite(p.reasoning), false)
            AND NOT coalesce(isfinite(p.overall), false)
        THEN 'the row has no finite number in the column'
    END
FROM picked AS p

-- How many samples of a dataset have a value in a column that came with the data, and of how many it is a finite number.
-- Params:  $dataset_id INTEGER, $column VARCHAR
-- Returns: n BIGINT, n_numbers BIGINT, example VARCHAR (the first value)
WITH found AS (
    SELECT
        d.position,
        -- as in insert_difficulty_from_columns
        json_extract_string(d.attributes, '/' || replace(replace($column, '~', '~0'), '/', '~1')) AS value
    FROM dataset_samples AS d
    WHERE d.dataset_id = $dataset_id
)
SELECT
    count(f.value) AS n,
    count(*) FILTER (isfinite(try_cast(f.value AS DOUBLE))) AS n_numbers,
    arg_min(f.value, f.position) AS example
FROM found AS f

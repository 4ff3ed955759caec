-- A dataset by name.
-- Params: $name VARCHAR
-- Returns: dataset_id INTEGER, name VARCHAR, kind VARCHAR, n_samples BIGINT
SELECT
    d.dataset_id,
    d.name,
    d.kind,
    (SELECT count(*) FROM dataset_samples AS s WHERE s.dataset_id = d.dataset_id) AS n_samples
FROM datasets AS d
WHERE d.name = $name

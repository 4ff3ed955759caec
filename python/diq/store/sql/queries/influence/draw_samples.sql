-- Some samples of a dataset, drawn by a seed as judging/draw_judged_samples draws them (base/draws.py).
-- Params: $dataset_id INTEGER, $seed BIGINT, $n BIGINT
-- Returns: sample_id VARCHAR, messages VARCHAR
SELECT CAST(d.sample_id AS VARCHAR) AS sample_id, CAST(s.messages AS VARCHAR) AS messages
FROM dataset_samples AS d
JOIN samples AS s USING (sample_id)
WHERE d.dataset_id = $dataset_id
ORDER BY md5(CAST(d.sample_id AS VARCHAR) || '/' || CAST($seed AS VARCHAR))
LIMIT $n

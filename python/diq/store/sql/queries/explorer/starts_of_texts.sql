-- The start of the last question of some samples of a dataset, in no particular order.
-- Params: $dataset_id INTEGER, $positions BIGINT[], $characters BIGINT
SELECT d.position, substr(coalesce(s.messages ->> '$[#-2].content', ''), 1, $characters) AS start
FROM dataset_samples AS d
JOIN (SELECT unnest(CAST($positions AS BIGINT[])) AS position) AS wanted USING (position)
JOIN samples AS s USING (sample_id)
WHERE d.dataset_id = $dataset_id

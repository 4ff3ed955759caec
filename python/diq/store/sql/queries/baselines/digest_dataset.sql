-- What a dataset holds, whatever its order: the same text for the same samples on any release of DuckDB.
-- Params: $dataset_id INTEGER
SELECT concat_ws(':', count(*), CAST(bit_xor(md5_number(CAST(s.sample_id AS VARCHAR))) AS VARCHAR)) AS digest
FROM dataset_samples AS s
WHERE s.dataset_id = $dataset_id

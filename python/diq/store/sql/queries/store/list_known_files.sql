-- files that a store was made from or points to; `content_hash` is that of the whole file, where it is known
SELECT DISTINCT
    path,
    'a source of the dataset `' || d.name || '`' AS role,
    content_hash
FROM sources
INNER JOIN datasets AS d USING (dataset_id)
UNION ALL
SELECT
    path,
    'a file of answers' AS role,
    checksum AS content_hash
FROM generation_files
UNION ALL
SELECT
    i.folder || '/' || s.file AS path,
    'a shard of a gradient index' AS role,
    s.content_hash
FROM gradient_shards AS s
INNER JOIN gradient_indexes AS i USING (run_id);

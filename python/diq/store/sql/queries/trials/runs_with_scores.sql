-- Finished runs that hold a score of every kind for a dataset, with whose score it is.
-- Params: $dataset_id INTEGER
SELECT
    r.run_id,
    r.kind,
    r.method,
    concat_ws(', ', r.method, r.config ->> '$.precondition') AS label,
    m.name AS model
FROM runs AS r
JOIN run_datasets AS rd ON rd.run_id = r.run_id AND rd.dataset_id = $dataset_id AND rd.state = 'sealed'
LEFT JOIN models AS m ON m.model_id = r.model_id
WHERE r.kind IN ('influence', 'perplexity', 'similarity', 'length', 'ifd', 'bm25', 'difficulty')
ORDER BY r.run_id

-- What a selection was made of, and whether its samples are still those.
-- Params: $selection_id BIGINT
-- Returns: dataset_id INTEGER, dataset VARCHAR, strategy VARCHAR, ratio VARCHAR, n BIGINT, n_found BIGINT,
--          digest VARCHAR (null in selections of older stores), digest_now VARCHAR,
--          n_ranked BIGINT (samples when it was ranked, guarded ones included), n_samples BIGINT (samples now)
SELECT
    k.dataset_id,
    d.name AS dataset,
    s.strategy,
    s.ratio,
    s.n,
    f.n_found,
    s.digest,
    f.digest_now,
    k.n_scored + k.n_unscored + coalesce(k.n_excluded, 0) AS n_ranked,
    (SELECT count(*) FROM dataset_samples AS a WHERE a.dataset_id = k.dataset_id) AS n_samples
FROM selections AS s
JOIN rankings AS k USING (ranking_id)
JOIN datasets AS d ON d.dataset_id = k.dataset_id
CROSS JOIN (
    SELECT
        count(*) AS n_found,
        CAST(bit_xor(md5_number(concat(CAST(c.sample_id AS VARCHAR), ' ', CAST(c.rank AS VARCHAR)))) AS VARCHAR)
            AS digest_now
    FROM selection_samples AS c
    WHERE c.selection_id = $selection_id
) AS f
WHERE s.selection_id = $selection_id

-- Rankings that selections are taken from now, each with its configuration; walks through others are made of those.
SELECT k.ranking_id, k.strategy, k.configuration, k.fingerprint, d.name AS dataset
FROM rankings AS k
JOIN datasets AS d USING (dataset_id)
WHERE k.replaced_by IS NULL AND k.base_ranking IS NULL AND k.configuration IS NOT NULL
ORDER BY k.ranking_id

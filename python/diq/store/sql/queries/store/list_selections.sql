-- All selections, latest first.
SELECT
    s.selection_id, s.name, d.name AS dataset, s.strategy, s.ratio, s.n, s.n_target, s.output, s.created_at,
    s.ranking_id, r.replaced_by IS NOT NULL AS replaced
FROM selections AS s
JOIN rankings AS r USING (ranking_id)
JOIN datasets AS d USING (dataset_id)
ORDER BY s.selection_id DESC

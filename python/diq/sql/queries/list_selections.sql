-- All selections, latest first.
SELECT s.selection_id, s.name, d.name AS dataset, r.strategy, s.ratio, s.n, s.n_target, s.output, s.created_at
FROM selections AS s
JOIN rankings AS r USING (ranking_id)
JOIN datasets AS d USING (dataset_id)
ORDER BY s.selection_id DESC

-- The ranking that a selection is a part of, and how many of its rows are still there.
-- Params: $selection_id BIGINT
SELECT
    s.selection_id,
    s.name,
    s.strategy AS selection_strategy,
    s.ratio,
    s.n,
    s."first",
    s.output,
    s.file_order,
    s.weighted,
    s.created_at AS selected_at,
    d.name AS dataset,
    m.name AS model,
    k.*,
    k.scores_digest = diq_digest(k.dataset_id, k.influence_run, k.difficulty_run, k.score_run) AS is_current
FROM selections AS s
JOIN rankings AS k ON k.ranking_id = s.ranking_id
JOIN datasets AS d ON d.dataset_id = k.dataset_id
LEFT JOIN runs AS r ON r.run_id = coalesce(k.influence_run, k.score_run)
LEFT JOIN models AS m ON m.model_id = r.model_id
WHERE s.selection_id = $selection_id

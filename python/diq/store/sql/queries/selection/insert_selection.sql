-- Record a selection: rows "first" to "first" + n of its ranking.
-- Params: $name, $ranking_id, $strategy, $ratio, $n_target, $first, $n, $output, $created_at, $file_order, $weighted
INSERT INTO selections (
    selection_id, name, ranking_id, strategy, ratio, n_target, "first", n, output, created_at, file_order, weighted
)
SELECT
    nextval('selection_ids'), $name, $ranking_id, $strategy, $ratio, $n_target, $first, $n, $output, $created_at,
    $file_order, $weighted

-- Record a selection.
INSERT INTO selections (selection_id, name, ranking_id, ratio, n_target, n, output, created_at)
SELECT nextval('selection_ids'), $name, $ranking_id, $ratio, $n_target, $n, $output, $created_at

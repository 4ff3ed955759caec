-- Add up the dots of the runs of several checkpoints (TracIn): sum over checkpoints of weight times dot. A sample that any
-- checkpoint has no dot for has none, with that reason; loss and answer tokens are those of the last checkpoint. Every
-- part has the folds that were asked for; lists of different length are refused, since they cannot be added.
-- Params: $run_id BIGINT, $dataset_id INTEGER, $validation_set_ids INTEGER[]
WITH parts AS (
    SELECT part_run_id, weight FROM run_parts WHERE run_id = $run_id
),
summed AS (
    SELECT
        i.sample_id,
        i.validation_set_id,
        count(*) AS n,
        count(i.dot) AS n_dots,
        -- in the order of the runs, so that the sum has the same bits every time
        sum(i.dot * p.weight ORDER BY p.part_run_id) AS dot,
        list(list_transform(i.fold_dots, lambda x: x * p.weight) ORDER BY p.part_run_id) AS folds,
        min(coalesce(len(i.fold_dots), 0)) = max(coalesce(len(i.fold_dots), 0)) AS alike,
        arg_max(i.loss, p.part_run_id) AS loss,
        max(i.answer_tokens) AS answer_tokens,
        min(i.reason) AS reason
    FROM influence_scores AS i
    JOIN parts AS p ON p.part_run_id = i.run_id
    JOIN dataset_samples AS d ON d.sample_id = i.sample_id AND d.dataset_id = $dataset_id
    WHERE list_contains($validation_set_ids, i.validation_set_id)
    GROUP BY i.sample_id, i.validation_set_id
)
INSERT INTO influence_scores (run_id, sample_id, validation_set_id, dot, fold_dots, loss, answer_tokens, reason)
SELECT
    $run_id,
    s.sample_id,
    s.validation_set_id,
    CASE WHEN s.n_dots = s.n THEN s.dot END,
    CASE
        WHEN s.n_dots = s.n AND NOT s.alike
        THEN error('the runs of the checkpoints have different folds')
        WHEN s.n_dots = s.n
        THEN list_transform(
            range(len(s.folds[1])), lambda f: list_sum(list_transform(s.folds, lambda one: one[f + 1]))
        )
    END,
    s.loss,
    s.answer_tokens,
    s.reason
FROM summed AS s
ANTI JOIN influence_scores AS have
    ON have.run_id = $run_id AND have.sample_id = s.sample_id AND have.validation_set_id = s.validation_set_id
WHERE s.n = (SELECT count(*) FROM parts)

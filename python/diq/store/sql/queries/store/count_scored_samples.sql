-- How many samples of a dataset have a score of each run: of the validation set that has the fewest, since a sample
-- without a dot for one of them is not selected. Only messages need it: it reads all scores.
-- Params:  $dataset VARCHAR, $run_ids BIGINT[], $dimension VARCHAR (of a difficulty; null for other scores)
-- Returns: run_id BIGINT, n BIGINT
SELECT c.run_id, min(c.n_scored) AS n
FROM score_coverage AS c
WHERE
    c.dataset = $dataset
    AND list_contains($run_ids, c.run_id)
    AND c.dimension IS NOT DISTINCT FROM CAST($dimension AS VARCHAR)
GROUP BY c.run_id

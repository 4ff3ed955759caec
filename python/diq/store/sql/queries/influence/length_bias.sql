-- Correlation of a sample's dot (mean over the run's sets) with its number of answer tokens.
-- Params: $run_id BIGINT, $dataset_id INTEGER
SELECT corr(m.dot, m.answer_tokens) AS correlation
FROM (
    SELECT avg(i.dot) AS dot, any_value(i.answer_tokens) AS answer_tokens
    FROM influence_scores AS i
    JOIN dataset_samples AS d ON d.sample_id = i.sample_id AND d.dataset_id = $dataset_id
    WHERE i.run_id = $run_id AND isfinite(i.dot)
    GROUP BY i.sample_id
) AS m

-- Characters of the last prompt, the reasoning and the answer in a selection, or in its whole dataset; a sample without
-- reasoning counts 0.
-- Params: $dataset_id INTEGER; $ranking_id BIGINT (null: the whole dataset), $first, $n BIGINT
WITH texts AS (
    SELECT
        coalesce(length(t.prompt), 0) AS prompt,
        coalesce(length(t.reasoning), 0) AS reasoning,
        coalesce(length(t.answer), 0) AS answer
    FROM dataset_samples AS d
    JOIN sample_texts AS t ON t.sample_id = d.sample_id
    WHERE
        d.dataset_id = $dataset_id
        AND (
            $ranking_id IS NULL
            OR d.position IN (
                SELECT r.position
                FROM ranking_samples AS r
                WHERE r.ranking_id = $ranking_id AND r.rank >= $first AND r.rank < $first + $n
            )
        )
)
SELECT
    count(*) AS n,
    avg(t.prompt) AS prompt_mean,
    median(t.prompt) AS prompt_median,
    avg(t.reasoning) AS reasoning_mean,
    median(t.reasoning) AS reasoning_median,
    avg(t.answer) AS answer_mean,
    median(t.answer) AS answer_median
FROM texts AS t

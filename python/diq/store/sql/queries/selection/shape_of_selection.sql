-- What the samples of a selection look like, so that a Parquet file can have one schema.
-- Params: $dataset_id INTEGER, $ranking_id, $first, $n BIGINT
SELECT
    coalesce(bool_or(contains(CAST(s.messages AS VARCHAR), '"reasoning_content":')), false) AS has_reasoning,
    coalesce(bool_or(regexp_matches(CAST(s.messages AS VARCHAR), '"(tools|tool_calls)":|"role":"tool"')), false)
        AS has_tools,
    coalesce(bool_or(contains(CAST(s.messages AS VARCHAR), '"train":false')), false) AS has_masks,
    coalesce(bool_or(s.rejected IS NOT NULL), false) AS has_rejected
FROM ranking_samples AS c
JOIN dataset_samples AS d ON d.dataset_id = $dataset_id AND d.position = c.position
JOIN samples AS s ON s.sample_id = d.sample_id
WHERE c.ranking_id = $ranking_id AND c.rank >= $first AND c.rank < $first + $n

-- How long the samples of a dataset are in tokens, estimated from their characters and cut to a maximum length.
-- Params:  $dataset_id INTEGER, $characters_per_token DOUBLE, $max_length BIGINT
-- Returns: n BIGINT, tokens, squares (of the tokens a sample), answers, prompts DOUBLE (sums over the samples); for
--          preference pairs of both answers, each behind its prompt
WITH characters AS (
    SELECT
        coalesce(list_sum([length(x) FOR x IN s.messages ->> '$[*].content']), 0)
        + coalesce(list_sum([length(x) FOR x IN s.messages ->> '$[*].reasoning_content']), 0) AS n_all,
        length(coalesce(s.messages ->> '$[#-1].content', ''))
        + length(coalesce(s.messages ->> '$[#-1].reasoning_content', '')) AS n_answer,
        CASE
            WHEN s.rejected IS NOT NULL
                THEN
                    length(coalesce(s.rejected ->> '$[#-1].content', ''))
                    + length(coalesce(s.rejected ->> '$[#-1].reasoning_content', ''))
        END AS n_rejected
    FROM dataset_samples AS d
    JOIN samples AS s ON s.sample_id = d.sample_id
    WHERE d.dataset_id = $dataset_id
),
texts AS (
    SELECT n_all - n_answer AS n_prompt, n_answer FROM characters
    UNION ALL
    SELECT n_all - n_answer, n_rejected FROM characters WHERE n_rejected IS NOT NULL
),
tokens AS (
    SELECT
        least((n_prompt + n_answer) / $characters_per_token, $max_length) AS n_tokens,
        least(n_prompt / $characters_per_token, $max_length) AS n_prompt
    FROM texts
)
SELECT
    (SELECT count(*) FROM characters) AS n,
    coalesce(sum(n_tokens), 0) AS tokens,
    coalesce(sum(n_tokens * n_tokens), 0) AS squares,
    coalesce(sum(n_tokens - n_prompt), 0) AS answers,
    coalesce(sum(n_prompt), 0) AS prompts
FROM tokens

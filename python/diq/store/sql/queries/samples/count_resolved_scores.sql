-- How the rows of a score file fared.
-- Returns: n_rows, n_samples, n_duplicates, n_rejects, and for each kind of score how many rows have one that counts
SELECT
    count(*) AS n_rows,
    count(*) FILTER (WHERE outcome = 'sample') AS n_samples,
    count(*) FILTER (WHERE outcome = 'duplicate') AS n_duplicates,
    count(*) FILTER (WHERE outcome = 'reject') AS n_rejects,
    count(*) FILTER (WHERE has_difficulty) AS difficulty,
    count(*) FILTER (WHERE has_influence) AS influence,
    count(*) FILTER (WHERE has_perplexity) AS perplexity,
    count(*) FILTER (WHERE has_similarity) AS similarity
FROM resolved_scores

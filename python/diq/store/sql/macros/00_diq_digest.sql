-- diq_digest(of_dataset, of_influence, of_difficulty, of_score): a short text that changes when a sample of the dataset
-- or a score of one of these runs is added, removed or changed, by whatever client. A run that is null counts for nothing.
-- Rankings keep the digest of what they were made from, so a different one now says that a ranking is out of date.
-- Sums of hashes without order, over whole runs: 10 million rows take about a tenth of a second, and no join. Another
-- release of DuckDB may hash differently; then a ranking is made once more, found to be the same, and kept.
CREATE OR REPLACE MACRO diq_digest(of_dataset, of_influence, of_difficulty, of_score) AS concat_ws(
    ' ',
    (
        SELECT concat_ws(':', count(*), bit_xor(hash(s.sample_id, s.position)))
        FROM dataset_samples AS s
        WHERE s.dataset_id = CAST(of_dataset AS INTEGER)
    ),
    (
        SELECT concat_ws(':', count(*), bit_xor(hash(i.sample_id, i.validation_set_id, i.dot, i.gradient_norm)))
        FROM influence_scores AS i
        WHERE i.run_id = CAST(of_influence AS BIGINT)
    ),
    (
        SELECT concat_ws(':', count(*), bit_xor(hash(f.sample_id, f.knowledge, f.reasoning, f.overall)))
        FROM difficulty_scores AS f
        WHERE f.run_id = CAST(of_difficulty AS BIGINT)
    ),
    (
        SELECT concat_ws(
            ':',
            count(*),
            bit_xor(hash(t.sample_id, t.validation_set_id, t.perplexity, t.similarity)),
            -- null, and so nothing, for runs of older stores
            bit_xor(hash(t.sample_id, t.value)) FILTER (WHERE t.value IS NOT NULL)
        )
        FROM text_scores AS t
        WHERE t.run_id = CAST(of_score AS BIGINT)
    ),
    -- the sizes weigh the sets when their dots are pooled
    (
        SELECT string_agg(concat_ws('=', v.validation_set_id, v.n_samples), ',' ORDER BY v.validation_set_id)
        FROM run_validation_sets AS rv
        JOIN validation_sets AS v USING (validation_set_id)
        WHERE rv.run_id IN (CAST(of_influence AS BIGINT), CAST(of_score AS BIGINT))
    )
);

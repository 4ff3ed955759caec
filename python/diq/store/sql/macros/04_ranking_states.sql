-- The view ranking_states is made here, behind the macro that it calls.
CREATE OR REPLACE VIEW ranking_states AS
SELECT
    k.ranking_id,
    d.name AS dataset,
    k.strategy,
    k.influence_run,
    k.difficulty_run,
    k.score_run,
    k.scores_digest = diq_digest(k.dataset_id, k.influence_run, k.difficulty_run, k.score_run) AS current,
    k.replaced_by,
    k.n_scored,
    (SELECT count(*) FROM ranking_samples AS r WHERE r.ranking_id = k.ranking_id) AS n_stored,
    (SELECT count(*) FROM selections AS s WHERE s.ranking_id = k.ranking_id) AS n_selections,
    k.created_at
FROM rankings AS k
JOIN datasets AS d ON d.dataset_id = k.dataset_id;
COMMENT ON VIEW ranking_states IS
    'Whether each ranking is up to date; reads every score that a ranking was made from, so filter by ranking_id or dataset.';
COMMENT ON COLUMN ranking_states.ranking_id IS 'Ranking.';
COMMENT ON COLUMN ranking_states.dataset IS 'Name of the dataset.';
COMMENT ON COLUMN ranking_states.strategy IS 'diq (also for q1 to q4), random, influence and so on.';
COMMENT ON COLUMN ranking_states.influence_run IS 'Run of the dots; null where the strategy uses none.';
COMMENT ON COLUMN ranking_states.difficulty_run IS 'Run of the difficulty; null where the strategy uses none.';
COMMENT ON COLUMN ranking_states.score_run IS 'Run of the text scores (perplexity, similarity, length and so on); null where the strategy uses none.';
COMMENT ON COLUMN ranking_states.current IS
    'Whether the samples and scores are still those that it was made from; false: the next selection looks again, and ranks again if the order could differ. Null for rankings of older stores. Another release of DuckDB may say false of its own accord.';
COMMENT ON COLUMN ranking_states.replaced_by IS 'Ranking that took its place after scores changed; null while it is in use.';
COMMENT ON COLUMN ranking_states.n_scored IS 'Samples that it ranked.';
COMMENT ON COLUMN ranking_states.n_stored IS 'Rows that are kept of it: all, or after a replacement those that its selections took.';
COMMENT ON COLUMN ranking_states.n_selections IS 'Selections that are a part of it.';
COMMENT ON COLUMN ranking_states.created_at IS 'When it was made (UTC).';

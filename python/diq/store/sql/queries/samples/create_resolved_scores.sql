-- What becomes of each row of a score file; resolve_scores fills it.
CREATE OR REPLACE TEMP TABLE resolved_scores (
    line BIGINT,
    sample_id UUID,
    knowledge DOUBLE,
    reasoning DOUBLE,
    overall DOUBLE,
    dot DOUBLE,
    perplexity DOUBLE,
    similarity DOUBLE,
    has_difficulty BOOLEAN,
    has_influence BOOLEAN,
    has_perplexity BOOLEAN,
    has_similarity BOOLEAN,
    new_difficulty BOOLEAN,
    new_influence BOOLEAN,
    new_perplexity BOOLEAN,
    new_similarity BOOLEAN,
    outcome VARCHAR,
    reason VARCHAR,
    content VARCHAR
)

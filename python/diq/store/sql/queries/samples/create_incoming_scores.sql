-- Where the rows of a score file wait until all are read.
CREATE OR REPLACE TEMP TABLE incoming_scores (
    line BIGINT,
    sample_id VARCHAR,
    position BIGINT,
    knowledge DOUBLE,
    reasoning DOUBLE,
    overall DOUBLE,
    dot DOUBLE,
    perplexity DOUBLE,
    similarity DOUBLE,
    reason VARCHAR,
    content VARCHAR
)

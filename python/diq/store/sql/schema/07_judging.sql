-- A change here is also the next migration (01_store.sql).
-- What language models answer: annotations of difficulty and judgments of reasoning.

CREATE SEQUENCE comparison_ids;

CREATE TABLE replies (
    run_id BIGINT NOT NULL,
    item_id UUID NOT NULL,
    attempt UTINYINT NOT NULL,
    content VARCHAR USING COMPRESSION zstd,
    finish_reason VARCHAR,
    parsing VARCHAR,
    problem VARCHAR,
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    retries INTEGER,
    seconds DOUBLE,
    answered_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE replies IS 'Every reply of a language model that was asked to rate a text, as it came; nothing is asked twice.';
COMMENT ON COLUMN replies.run_id IS 'Run that asked: its model, prompt version and sampling.';
COMMENT ON COLUMN replies.item_id IS 'First 128 bits of BLAKE3 over the text that was asked about: equal texts are one item.';
COMMENT ON COLUMN replies.attempt IS 'Odd: asked afresh; even: second asking, after a reply that could not be read.';
COMMENT ON COLUMN replies.content IS 'The reply; null where none came, and the next call asks again.';
COMMENT ON COLUMN replies.finish_reason IS 'Why the model stopped: stop, length and so on, as the server says it.';
COMMENT ON COLUMN replies.parsing IS 'strict: the format that was asked for; lenient: read in spite of another format; null: not read.';
COMMENT ON COLUMN replies.problem IS 'Why it could not be read, or why none came; null where it was read.';
COMMENT ON COLUMN replies.prompt_tokens IS 'Tokens of the prompt, as the server counts them.';
COMMENT ON COLUMN replies.completion_tokens IS 'Tokens of the reply, as the server counts them.';
COMMENT ON COLUMN replies.retries IS 'Requests that failed before this one (429, 5xx, time-outs).';
COMMENT ON COLUMN replies.seconds IS 'Time from the first request to the reply.';
COMMENT ON COLUMN replies.answered_at IS 'When it came (UTC).';

CREATE TABLE judgments (
    run_id BIGINT NOT NULL,
    item_id UUID NOT NULL,
    dimension VARCHAR NOT NULL,
    score UTINYINT,
    rationale VARCHAR USING COMPRESSION zstd
);
COMMENT ON TABLE judgments IS 'Scores that a language model gave, read from its reply: annotations of difficulty and judgments of reasoning.';
COMMENT ON COLUMN judgments.run_id IS 'Run: rubric, model, prompt version.';
COMMENT ON COLUMN judgments.item_id IS 'What was judged; the reply is in replies.';
COMMENT ON COLUMN judgments.dimension IS
    'knowledge, reasoning, overall; reasoning_quality; differential_diagnosis, safety_check, evidence_citation; key_factors has words alone.';
COMMENT ON COLUMN judgments.score IS '1 to 5; null for a dimension of words alone.';
COMMENT ON COLUMN judgments.rationale IS 'The model''s words; null where it gave none.';

CREATE TABLE comparisons (
    comparison_id BIGINT PRIMARY KEY,
    run_id BIGINT NOT NULL,
    name VARCHAR,
    config JSON NOT NULL,
    result JSON,
    created_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE comparisons IS 'Which groups of texts were judged against each other; the judgments themselves belong to the run and are shared.';
COMMENT ON COLUMN comparisons.comparison_id IS 'Number of the comparison in this store.';
COMMENT ON COLUMN comparisons.run_id IS 'Run that judged: rubric, model, prompt version.';
COMMENT ON COLUMN comparisons.name IS 'Name given by the user; null without one.';
COMMENT ON COLUMN comparisons.config IS 'Groups, samples a group, seed.';
COMMENT ON COLUMN comparisons.result IS 'Mean, confidence interval and p-value of each dimension, when it was finished.';
COMMENT ON COLUMN comparisons.created_at IS 'When it was first asked for (UTC).';

CREATE TABLE comparison_items (
    comparison_id BIGINT NOT NULL,
    arm VARCHAR NOT NULL,
    number INTEGER NOT NULL,
    item_id UUID NOT NULL,
    sample_id UUID,
    question VARCHAR USING COMPRESSION zstd,
    answer VARCHAR USING COMPRESSION zstd
);
COMMENT ON TABLE comparison_items IS 'What each arm of a comparison drew; join judgments by (run_id, item_id).';
COMMENT ON COLUMN comparison_items.comparison_id IS 'Comparison.';
COMMENT ON COLUMN comparison_items.arm IS 'Name of the group, such as a selection or a model; the judge never sees it.';
COMMENT ON COLUMN comparison_items.number IS '0-based place in the order of asking, shuffled over all arms.';
COMMENT ON COLUMN comparison_items.item_id IS 'What was judged.';
COMMENT ON COLUMN comparison_items.sample_id IS 'Sample of the store; null for a model output.';
COMMENT ON COLUMN comparison_items.question IS 'Question of a model output; null for a sample.';
COMMENT ON COLUMN comparison_items.answer IS 'The model output; null for a sample.';

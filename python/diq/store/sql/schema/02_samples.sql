-- A change here is also the next migration (01_store.sql).
-- Datasets and their samples, and the validation sets drawn from them.

CREATE SEQUENCE dataset_ids;
CREATE SEQUENCE source_ids;
CREATE SEQUENCE validation_set_ids;

CREATE TABLE datasets (
    dataset_id INTEGER PRIMARY KEY,
    name VARCHAR NOT NULL UNIQUE,
    kind VARCHAR NOT NULL CHECK (kind IN ('training', 'validation')),
    created_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE datasets IS 'Named collections of samples: training pools and the data behind validation sets.';
COMMENT ON COLUMN datasets.dataset_id IS 'Number of the dataset in this store.';
COMMENT ON COLUMN datasets.name IS 'Name given at ingest; commands and macros take it.';
COMMENT ON COLUMN datasets.kind IS 'training: what is selected from; validation: what influence is measured on.';
COMMENT ON COLUMN datasets.created_at IS 'When the dataset was first ingested (UTC).';

CREATE TABLE sources (
    source_id INTEGER PRIMARY KEY,
    dataset_id INTEGER NOT NULL,
    path VARCHAR NOT NULL,
    kind VARCHAR NOT NULL CHECK (kind IN ('samples', 'scores')),
    layout VARCHAR NOT NULL,
    content_hash VARCHAR NOT NULL,
    options JSON NOT NULL,
    first_position BIGINT,
    n_rows BIGINT NOT NULL,
    n_samples BIGINT NOT NULL,
    n_duplicates BIGINT NOT NULL,
    n_rejects BIGINT NOT NULL,
    ingested_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE sources IS 'Every file that was ingested, with its counts; the same file is ingested once.';
COMMENT ON COLUMN sources.source_id IS 'Number of the source in this store.';
COMMENT ON COLUMN sources.dataset_id IS 'Dataset that the source belongs to.';
COMMENT ON COLUMN sources.path IS 'File, folder or hub id as given on the command line.';
COMMENT ON COLUMN sources.kind IS 'samples: rows of text; scores: scores computed elsewhere.';
COMMENT ON COLUMN sources.layout IS 'Row layout that was found or asked for, such as alpaca, sharegpt or scores.';
COMMENT ON COLUMN sources.content_hash IS 'BLAKE3 of the file (of all files of a folder), hexadecimal.';
COMMENT ON COLUMN sources.options IS 'Options that change what is read: format, map, drop_reasoning and so on.';
COMMENT ON COLUMN sources.first_position IS 'Dataset position of the first row of this source; null for scores.';
COMMENT ON COLUMN sources.n_rows IS 'Rows read; the sum of samples, duplicates and rejects.';
COMMENT ON COLUMN sources.n_samples IS 'Rows that became a sample (or a score) of the dataset.';
COMMENT ON COLUMN sources.n_duplicates IS 'Rows that repeat an earlier row of the dataset exactly.';
COMMENT ON COLUMN sources.n_rejects IS 'Rows that could not be used; table rejects says why.';
COMMENT ON COLUMN sources.ingested_at IS 'When the source was ingested (UTC).';

CREATE TABLE samples (
    sample_id UUID NOT NULL,
    -- text shrinks to a sixth (MedQuAD: 36 MB to 5.5 MB), and less is written
    messages JSON NOT NULL USING COMPRESSION zstd,
    rejected JSON USING COMPRESSION zstd
);
COMMENT ON TABLE samples IS 'The text of every distinct sample, whatever dataset or file it came from; never deleted.';
COMMENT ON COLUMN samples.sample_id IS 'First 128 bits of BLAKE3 over the canonical JSON of messages (and rejected).';
COMMENT ON COLUMN samples.messages IS 'Canonical JSON: list of {content, role[, reasoning_content]}, sorted keys.';
COMMENT ON COLUMN samples.rejected IS 'Preference pairs: the refused answer as a message list; otherwise null.';

CREATE TABLE dataset_samples (
    dataset_id INTEGER NOT NULL,
    position BIGINT NOT NULL,
    sample_id UUID NOT NULL,
    source_id INTEGER NOT NULL,
    line BIGINT NOT NULL,
    split VARCHAR NOT NULL,
    attributes JSON
);
COMMENT ON TABLE dataset_samples IS 'Which samples a dataset holds and where each was read.';
COMMENT ON COLUMN dataset_samples.dataset_id IS 'Dataset.';
COMMENT ON COLUMN dataset_samples.position IS
    '0-based row of the dataset, counted over all rows read, so it also counts duplicates and rejects.';
COMMENT ON COLUMN dataset_samples.sample_id IS 'Sample.';
COMMENT ON COLUMN dataset_samples.source_id IS 'Source that the row came from.';
COMMENT ON COLUMN dataset_samples.line IS '1-based line of a text file, or 1-based row of any other container.';
COMMENT ON COLUMN dataset_samples.split IS 'train, or validation for the samples of a validation set, unused for the rest.';
COMMENT ON COLUMN dataset_samples.attributes IS 'The short other columns of the row (at most 256 characters each) as JSON.';

CREATE TABLE duplicates (
    dataset_id INTEGER NOT NULL,
    position BIGINT NOT NULL,
    sample_id UUID NOT NULL,
    source_id INTEGER NOT NULL,
    line BIGINT NOT NULL
);
COMMENT ON TABLE duplicates IS 'Rows that repeat an earlier row of the same dataset exactly.';
COMMENT ON COLUMN duplicates.dataset_id IS 'Dataset.';
COMMENT ON COLUMN duplicates.position IS '0-based row of the dataset.';
COMMENT ON COLUMN duplicates.sample_id IS 'The sample that the row repeats.';
COMMENT ON COLUMN duplicates.source_id IS 'Source that the row came from.';
COMMENT ON COLUMN duplicates.line IS '1-based line or row in the source.';

CREATE TABLE rejects (
    dataset_id INTEGER NOT NULL,
    source_id INTEGER NOT NULL,
    source VARCHAR NOT NULL,
    line BIGINT NOT NULL,
    position BIGINT,
    reason VARCHAR NOT NULL,
    content VARCHAR
);
COMMENT ON TABLE rejects IS 'Rows that were read and could not be used.';
COMMENT ON COLUMN rejects.dataset_id IS 'Dataset that the row was meant for.';
COMMENT ON COLUMN rejects.source_id IS 'Source that the row came from.';
COMMENT ON COLUMN rejects.source IS 'Path of the source.';
COMMENT ON COLUMN rejects.line IS '1-based line or row in the source.';
COMMENT ON COLUMN rejects.position IS '0-based row of the dataset; null for rows of a score file.';
COMMENT ON COLUMN rejects.reason IS 'Why the row cannot be used.';
COMMENT ON COLUMN rejects.content IS 'The start of the row, at most 2,000 characters.';

CREATE TABLE validation_sets (
    validation_set_id INTEGER PRIMARY KEY,
    name VARCHAR NOT NULL UNIQUE,
    dataset_id INTEGER,
    n_samples INTEGER,
    seed BIGINT,
    created_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE validation_sets IS 'Validation sets: the samples whose mean gradient influence is measured against.';
COMMENT ON COLUMN validation_sets.validation_set_id IS 'Number of the validation set in this store.';
COMMENT ON COLUMN validation_sets.name IS 'Name; usually the task, such as medqa.';
COMMENT ON COLUMN validation_sets.dataset_id IS 'Dataset that it was drawn from; null for scores computed elsewhere.';
COMMENT ON COLUMN validation_sets.n_samples IS 'Number of samples; its weight when dots of several sets are pooled (Eq. 3).';
COMMENT ON COLUMN validation_sets.seed IS 'Seed of the draw; null when every sample was taken.';
COMMENT ON COLUMN validation_sets.created_at IS 'When the set was made (UTC).';

CREATE TABLE validation_samples (
    validation_set_id INTEGER NOT NULL,
    sample_id UUID NOT NULL,
    position BIGINT NOT NULL
);
COMMENT ON TABLE validation_samples IS 'Samples of each validation set.';
COMMENT ON COLUMN validation_samples.validation_set_id IS 'Validation set.';
COMMENT ON COLUMN validation_samples.sample_id IS 'Sample.';
COMMENT ON COLUMN validation_samples.position IS 'Position of the sample in the dataset that the set was drawn from.';

-- text of each sample as columns, for people; messages stay the source of truth
CREATE VIEW sample_texts AS
SELECT
    sample_id,
    messages ->> '$[#-2].content' AS prompt,
    messages ->> '$[#-1].reasoning_content' AS reasoning,
    messages ->> '$[#-1].content' AS answer,
    CAST(json_array_length(messages) AS INTEGER) AS n_messages
FROM samples;
COMMENT ON VIEW sample_texts IS 'Last prompt, reasoning and answer of each sample as plain columns.';
COMMENT ON COLUMN sample_texts.sample_id IS 'Sample.';
COMMENT ON COLUMN sample_texts.prompt IS 'Last message before the answer.';
COMMENT ON COLUMN sample_texts.reasoning IS 'Reasoning part of the answer; null when there is none.';
COMMENT ON COLUMN sample_texts.answer IS 'Last assistant message.';
COMMENT ON COLUMN sample_texts.n_messages IS 'Number of messages.';

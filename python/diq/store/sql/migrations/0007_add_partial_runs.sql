-- Runs that have dots of as many samples as a selection needs, and rankings of which only the beginning is known.

ALTER TABLE run_datasets ADD COLUMN certificate JSON;
COMMENT ON COLUMN run_datasets.certificate IS 'Of an open run that was scored in part (--for-ratio): which samples have scores, and how large a selection they decide. Null for others.';

ALTER TABLE rankings ADD COLUMN n_ranked BIGINT;
COMMENT ON COLUMN rankings.n_ranked IS 'How many places of the order are known, where a run was scored in part; null: all.';

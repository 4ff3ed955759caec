-- Samples that each source gave to a selection and to its dataset, the largest of the dataset first. Source is null
-- where the store does not know the file.
-- Params: $selection_id BIGINT
SELECT f.source_id, f.source, f.n, f.n_dataset
FROM selection_sources AS f
WHERE f.selection_id = $selection_id
ORDER BY f.n_dataset DESC, f.source_id

-- Draw the samples of a validation set: those with the smallest hash of seed and id, so that the draw does not depend on
-- the order of the rows, and a sample keeps its place when others come or go. base/draws.py lists the forms of draws;
-- validation sets in stores are what this one drew.
-- Params: $validation_set_id, $dataset_id INTEGER, $seed BIGINT, $n BIGINT
INSERT INTO validation_samples (validation_set_id, sample_id, position)
SELECT $validation_set_id, d.sample_id, d.position
FROM (
    SELECT sample_id, position
    FROM dataset_samples
    WHERE dataset_id = $dataset_id
    ORDER BY sha256(concat($seed, ':', sample_id)), sample_id
    LIMIT $n
) AS d
ORDER BY d.position

-- Note which samples a selection holds; the same expression as in state_of_selection.
-- Params: $selection_id BIGINT
UPDATE selections
SET digest = (
    SELECT CAST(bit_xor(md5_number(concat(CAST(c.sample_id AS VARCHAR), ' ', CAST(c.rank AS VARCHAR)))) AS VARCHAR)
    FROM selection_samples AS c
    WHERE c.selection_id = $selection_id
)
WHERE selection_id = $selection_id

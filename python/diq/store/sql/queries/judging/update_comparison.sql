-- Record what came of a comparison; a name that is given takes the place of the earlier one.
-- Params: $comparison_id BIGINT, $name, $result VARCHAR
UPDATE comparisons SET result = $result, name = coalesce($name, name) WHERE comparison_id = $comparison_id

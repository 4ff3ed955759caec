-- The dots of a run on one of its datasets, under the name that the charts' queries read.
-- Reads:  scored
CREATE OR REPLACE TEMP VIEW drawn_dots AS
SELECT d.validation_set_id, d.dot, d.squared_error FROM scored AS d

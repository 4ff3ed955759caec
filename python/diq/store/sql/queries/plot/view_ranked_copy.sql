-- The copied rows under the name that the charts' queries read.
CREATE OR REPLACE TEMP VIEW ranked AS SELECT * FROM ranked_copy

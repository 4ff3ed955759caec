-- Position, place and dot of every ranked sample.
-- Reads:  ranked
SELECT r.position, r.rank, r.dot FROM ranked AS r

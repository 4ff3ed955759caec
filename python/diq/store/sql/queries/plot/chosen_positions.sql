-- The positions of the selection.
-- Reads:  chosen
SELECT c.position FROM chosen AS c

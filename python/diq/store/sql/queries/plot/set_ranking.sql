-- Name the ranking that the temporary view `ranked` shows.
-- Params: $ranking_id BIGINT
SET VARIABLE drawn_ranking = $ranking_id

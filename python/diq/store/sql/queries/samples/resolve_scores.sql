-- Find the sample of each row of a score file, compare it with what the runs hold, and decide what becomes of it:
-- sample (a score is new), duplicate (all of it is known) or reject, with the reason.
-- A row is one unit: if one of its scores cannot be used, none is.
-- Params: $dataset_id INTEGER, $difficulty_run, $influence_run, $perplexity_run, $similarity_run BIGINT (null: no such
--         run yet), $validation_set_id INTEGER (null: no such set yet), $replace BOOLEAN
INSERT INTO resolved_scores
WITH members AS (
    SELECT sample_id, position FROM dataset_samples WHERE dataset_id = $dataset_id
),
repeats AS (
    SELECT u.position, u.sample_id, m.position AS first_position
    FROM duplicates AS u
    JOIN members AS m USING (sample_id)
    WHERE u.dataset_id = $dataset_id
),
refused AS (
    SELECT position, reason FROM rejects WHERE dataset_id = $dataset_id AND position IS NOT NULL
),
last AS (
    SELECT max(first_position + n_rows) - 1 AS position
    FROM sources
    WHERE dataset_id = $dataset_id AND kind = 'samples'
),
given AS (
    SELECT *, TRY_CAST(sample_id AS UUID) AS id FROM incoming_scores
),
located AS (
    SELECT
        g.* EXCLUDE (sample_id, reason),
        coalesce(a.sample_id, b.sample_id) AS sample_id,
        CASE
            WHEN g.reason IS NOT NULL THEN g.reason
            WHEN g.sample_id IS NULL AND g.position IS NULL THEN 'neither sample_id nor position'
            WHEN g.sample_id IS NOT NULL AND g.id IS NULL THEN 'sample_id is no UUID'
            WHEN g.id IS NOT NULL AND a.sample_id IS NULL THEN 'the dataset has no sample with this sample_id'
            WHEN g.id IS NOT NULL AND g.position IS NOT NULL AND coalesce(b.sample_id, u.sample_id) IS DISTINCT FROM g.id
                THEN 'sample_id and position ' || g.position || ' are not the same sample'
            WHEN g.id IS NULL AND u.position IS NOT NULL
                THEN 'position ' || g.position || ' repeats position ' || u.first_position || ', which is the one to score'
            WHEN g.id IS NULL AND r.position IS NOT NULL
                THEN 'position ' || g.position || ' was rejected when the dataset was ingested: ' || r.reason
            WHEN g.id IS NULL AND b.sample_id IS NULL
                THEN 'no position ' || g.position || ': the dataset has 0 to ' || coalesce((SELECT position FROM last), 0)
            WHEN coalesce(g.knowledge, g.reasoning, g.overall, g.dot, g.perplexity, g.similarity) IS NULL THEN 'no score'
        END AS reason
    FROM given AS g
    LEFT JOIN members AS a ON a.sample_id = g.id
    LEFT JOIN members AS b ON b.position = g.position
    LEFT JOIN repeats AS u ON u.position = g.position
    LEFT JOIN refused AS r ON r.position = g.position
),
known AS (
    SELECT
        l.*,
        d.knowledge AS old_knowledge,
        d.reasoning AS old_reasoning,
        d.overall AS old_overall,
        i.dot AS old_dot,
        p.perplexity AS old_perplexity,
        s.similarity AS old_similarity
    FROM located AS l
    LEFT JOIN difficulty_scores AS d ON d.run_id = $difficulty_run AND d.sample_id = l.sample_id
    LEFT JOIN influence_scores AS i
        ON i.run_id = $influence_run AND i.sample_id = l.sample_id AND i.validation_set_id = $validation_set_id
    LEFT JOIN text_scores AS p ON p.run_id = $perplexity_run AND p.sample_id = l.sample_id
    LEFT JOIN text_scores AS s
        ON s.run_id = $similarity_run AND s.sample_id = l.sample_id AND s.validation_set_id = $validation_set_id
),
compared AS (
    SELECT
        k.* EXCLUDE (reason),
        CASE
            WHEN k.reason IS NOT NULL OR $replace THEN k.reason
            ELSE CASE
                WHEN k.knowledge <> k.old_knowledge THEN 'knowledge is ' || k.old_knowledge || ' in the store'
                WHEN k.reasoning <> k.old_reasoning THEN 'reasoning is ' || k.old_reasoning || ' in the store'
                WHEN k.overall <> k.old_overall THEN 'overall is ' || k.old_overall || ' in the store'
                WHEN k.dot <> k.old_dot THEN 'dot is ' || k.old_dot || ' in the store'
                WHEN k.perplexity <> k.old_perplexity THEN 'perplexity is ' || k.old_perplexity || ' in the store'
                WHEN k.similarity <> k.old_similarity THEN 'similarity is ' || k.old_similarity || ' in the store'
            END || '; --replace takes the new value'
        END AS reason
    FROM known AS k
),
ordered AS (
    SELECT
        c.*,
        struct_pack(c.knowledge, c.reasoning, c.overall, c.dot, c.perplexity, c.similarity) AS scores,
        row_number() OVER by_sample AS turn,
        first_value(c.line) OVER by_sample AS first_line,
        first_value(struct_pack(c.knowledge, c.reasoning, c.overall, c.dot, c.perplexity, c.similarity)) OVER by_sample
            AS first_scores
    FROM compared AS c
    -- rows that are rejected already share a group of their own, where the order means nothing
    WINDOW by_sample AS (PARTITION BY c.reason IS NULL, c.sample_id ORDER BY c.line)
),
judged AS (
    SELECT
        o.* EXCLUDE (reason),
        CASE
            WHEN o.reason IS NULL AND o.turn > 1 AND o.scores IS DISTINCT FROM o.first_scores
                THEN 'line ' || o.first_line || ' gives other scores for the same sample'
            ELSE o.reason
        END AS reason
    FROM ordered AS o
),
fresh AS (
    SELECT
        j.*,
        j.reason IS NULL AND j.turn = 1 AS counts,
        coalesce(j.knowledge, j.reasoning, j.overall) IS NOT NULL AS has_difficulty,
        coalesce(j.knowledge, j.old_knowledge) IS DISTINCT FROM j.old_knowledge
        OR coalesce(j.reasoning, j.old_reasoning) IS DISTINCT FROM j.old_reasoning
        OR coalesce(j.overall, j.old_overall) IS DISTINCT FROM j.old_overall AS new_difficulty,
        coalesce(j.dot, j.old_dot) IS DISTINCT FROM j.old_dot AS new_influence,
        coalesce(j.perplexity, j.old_perplexity) IS DISTINCT FROM j.old_perplexity AS new_perplexity,
        coalesce(j.similarity, j.old_similarity) IS DISTINCT FROM j.old_similarity AS new_similarity
    FROM judged AS j
)
SELECT
    f.line,
    f.sample_id,
    -- a row may fill in a dimension that an earlier file left open
    coalesce(f.knowledge, f.old_knowledge),
    coalesce(f.reasoning, f.old_reasoning),
    coalesce(f.overall, f.old_overall),
    f.dot,
    f.perplexity,
    f.similarity,
    f.counts AND f.has_difficulty,
    f.counts AND f.dot IS NOT NULL,
    f.counts AND f.perplexity IS NOT NULL,
    f.counts AND f.similarity IS NOT NULL,
    f.counts AND f.new_difficulty,
    f.counts AND f.new_influence,
    f.counts AND f.new_perplexity,
    f.counts AND f.new_similarity,
    CASE
        WHEN f.reason IS NOT NULL THEN 'reject'
        WHEN f.counts AND (f.new_difficulty OR f.new_influence OR f.new_perplexity OR f.new_similarity) THEN 'sample'
        ELSE 'duplicate'
    END,
    f.reason,
    coalesce(
        f.content,
        left(
            CAST(
                to_json(struct_pack(
                    sample_id := f.sample_id, position := f.position, knowledge := f.knowledge,
                    reasoning := f.reasoning, overall := f.overall, dot := f.dot, perplexity := f.perplexity,
                    similarity := f.similarity
                )) AS VARCHAR
            ),
            2000
        )
    )
FROM fresh AS f

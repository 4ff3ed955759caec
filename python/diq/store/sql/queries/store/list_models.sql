-- All models of the store.
SELECT model_id, name, source, architecture, n_parameters, added_at FROM models ORDER BY added_at, model_id

-- Has the server read its configuration again, and waits until this session has. Read by \i.
\set ECHO none
SELECT pg_conf_load_time()::text AS loaded_at \gset
SELECT pg_reload_conf() AS reloaded \gset
-- A session looks between two commands, so each look is a command of its own.
SELECT format('DO %L', format('BEGIN IF pg_conf_load_time()::text = %L THEN PERFORM pg_sleep(0.01); END IF; END', :'loaded_at'))
FROM generate_series(1, 2000) \gexec
\set ECHO all

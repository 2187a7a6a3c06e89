-- docs/reference.md and docs/failure-modes.md against the installed
-- extension, both ways: what there is, is described; what is described, is
-- there.  Run from the top of the tree.
\set reference `cat docs/reference.md`
\set modes `cat docs/failure-modes.md`
\set attach `cat docs/attach.md`
\set lane `cat src/lane.c src/task.c src/session.c src/listing.c src/job.c`

BEGIN;
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS rsvp_sync;
SELECT plan(11);

CREATE TEMP TABLE page (name text PRIMARY KEY, body text);
INSERT INTO page VALUES ('reference', :'reference'), ('modes', :'modes'),
	('attach', :'attach'), ('lane', :'lane');

-- Lines with the heading they stand under
CREATE TEMP VIEW line AS
SELECT p.name AS page, l.line,
	max(CASE WHEN l.line ~ '^##' THEN l.n END)
		OVER (PARTITION BY p.name ORDER BY l.n) AS under, l.n
FROM page p
CROSS JOIN LATERAL regexp_split_to_table(p.body, E'\n') WITH ORDINALITY AS l (line, n);

-- `…` of the first column of tables, with their heading
CREATE TEMP VIEW cell AS
SELECT l.page, h.line AS heading, m[1] AS word, l.line
FROM line l
JOIN line h ON h.page = l.page AND h.n = l.under
CROSS JOIN LATERAL regexp_matches(split_part(l.line, '|', 2), '`([^`]*)`', 'g') m
WHERE l.line LIKE '| `%';

CREATE TEMP VIEW public_function AS
SELECT p.oid, p.proname || '(' || regexp_replace(regexp_replace(
		pg_get_function_arguments(p.oid), ',? ?OUT \w+ [^,]+', '', 'g'),
		'(DEFAULT [^,:]+)::[a-z]+', '\1', 'g') || ')' AS signature
FROM pg_proc p
WHERE p.pronamespace = 'rsvp_sync'::regnamespace AND p.proname !~ '^_';

SELECT set_eq(
	$$SELECT substring(line, '^### `(.*\))`$') FROM line
		WHERE page = 'reference' AND line ~ '^### `'$$,
	$$SELECT signature FROM public_function$$,
	'every public function has its heading, with its arguments');
SELECT is_empty(
	$$SELECT signature FROM public_function
		WHERE coalesce(obj_description(oid, 'pg_proc'), '') = ''$$,
	'and a comment');
SELECT is_empty(
	$$SELECT h.line FROM line h WHERE page = 'reference' AND line ~ '^### `[^i]'
		AND NOT EXISTS (SELECT FROM line l WHERE l.page = h.page
			AND l.under = h.n AND l.line = '```sql')$$,
	'and an example');

CREATE TEMP VIEW public_view AS
SELECT c.oid, c.relname::text AS name FROM pg_class c
WHERE c.relnamespace = 'rsvp_sync'::regnamespace
	AND c.relkind IN ('v', 'm', 'r', 'p', 'f') AND c.relname !~ '^_';
SELECT set_eq(
	$$SELECT substring(heading, '`(\w+)`') AS view, word AS "column" FROM cell
		WHERE page = 'reference' AND heading ~ '^### View'$$,
	$$SELECT v.name, a.attname::text FROM public_view v
		JOIN pg_attribute a ON a.attrelid = v.oid
		WHERE a.attnum > 0 AND NOT a.attisdropped$$,
	'every view is there, with its columns');
SELECT is_empty(
	$$SELECT name FROM public_view
		WHERE coalesce(obj_description(oid, 'pg_class'), '') = ''$$,
	'and has a comment');

SELECT set_eq(
	$$SELECT word, btrim(split_part(line, '|', 3), ' `''') AS value,
			btrim(split_part(line, '|', 4)) AS context
		FROM cell WHERE page = 'reference' AND heading = '## Settings'$$,
	$$SELECT name, boot_val || coalesce(unit, '') AS value, context FROM pg_settings
		WHERE name LIKE 'rsvp\_sync.%'$$,
	'every setting is there, with its default and who may set it');
SELECT is_empty(
	$$SELECT name FROM pg_settings WHERE name LIKE 'rsvp\_sync.%'
		AND coalesce(short_desc, '') = ''$$,
	'and has a description');
SELECT set_eq(
	$$SELECT word FROM cell WHERE page = 'attach' AND heading = '## Options'
		AND line !~ '^\| `code'$$,
	$$SELECT name FROM rsvp_sync._known_options()$$,
	'every option of attach is in docs/attach.md');

-- The sentences' codes, and those of calls that are given up
SELECT set_eq(
	$$SELECT word FROM cell WHERE page = 'modes' AND heading ~ '^### '
		AND word <> 'withheld'$$,
	$$SELECT m[1] FROM pg_proc, regexp_matches(prosrc, 'WHEN ''(\w+)'' THEN', 'g') m
		WHERE oid = 'rsvp_sync._reason(text, text)'::regprocedure
		UNION SELECT m[1] FROM page, regexp_matches(body,
			'fail_(?:job|task|lane)\(\w+, "failed",\s*"(\w+)"', 'g') m
		WHERE name = 'lane'$$,
	'every reason code is in docs/failure-modes.md');
SELECT set_eq(
	$$SELECT word FROM cell WHERE page = 'modes' AND heading = '## States'$$,
	$$SELECT m[1] FROM regexp_matches(split_part(
		obj_description('rsvp_sync.status'::regclass), ':', 2), '(\w+)(?=,| or|, with)', 'g') m
		WHERE m[1] NOT IN ('with', 'or')$$,
	'every state, too');
SELECT is_empty(
	$$SELECT DISTINCT m[1] FROM page, regexp_matches(body, 'rsvp_sync\.([a-z]\w*)(?=[^\w*])', 'g') m
		WHERE name IN ('reference', 'modes') AND m[1] NOT IN (
			SELECT proname FROM pg_proc WHERE pronamespace = 'rsvp_sync'::regnamespace
			UNION SELECT relname FROM pg_class WHERE relnamespace = 'rsvp_sync'::regnamespace
			UNION SELECT typname FROM pg_type WHERE typnamespace = 'rsvp_sync'::regnamespace
			UNION SELECT split_part(name, '.', 2) FROM pg_settings WHERE name LIKE 'rsvp\_sync.%')$$,
	'and nothing is named that does not exist');

SELECT * FROM finish();
ROLLBACK;

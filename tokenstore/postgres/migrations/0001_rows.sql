-- Functions set search_path, since what others have made in the schema public may fit a call better than PostgreSQL's own, and would run as the vault's role.

-- What every node knows of the vault: the schema's version, and whether the vault is frozen.
CREATE TABLE @schema@.meta (
	key   text COLLATE "C" PRIMARY KEY,
	value text NOT NULL
);

-- The rows of all kinds. Beside what is sealed there is in clear only what finds a row, orders writes, and deletes it in time.
CREATE TABLE @schema@.rows (
	kind         text COLLATE "C" NOT NULL CHECK (kind ~ '^[a-z_]{1,32}$'),
	id           text COLLATE "C" NOT NULL CHECK (length(id) BETWEEN 1 AND 128 AND id ~ '^[!-~]+$'),
	version      bigint NOT NULL CHECK (version > 0),
	state        text COLLATE "C" NOT NULL CHECK (length(state) <= 32),
	refs         text[] COLLATE "C" NOT NULL CHECK (cardinality(refs) <= 32),
	due          bigint, -- milliseconds since 1970
	delete_after bigint, -- milliseconds since 1970
	sealed       bytea NOT NULL CHECK (octet_length(sealed) <= 4194304),
	PRIMARY KEY (kind, id)
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

-- What is encrypted cannot be compressed.
ALTER TABLE @schema@.rows ALTER COLUMN sealed SET STORAGE EXTERNAL;

CREATE INDEX rows_due ON @schema@.rows (kind, due, id) WHERE due IS NOT NULL;
CREATE INDEX rows_delete_after ON @schema@.rows (kind, delete_after, id) WHERE delete_after IS NOT NULL;

-- Under which references rows are found. Written by the functions below only, along with the rows.
CREATE TABLE @schema@.refs (
	kind text COLLATE "C" NOT NULL,
	ref  text COLLATE "C" NOT NULL CHECK (length(ref) BETWEEN 1 AND 192),
	id   text COLLATE "C" NOT NULL,
	PRIMARY KEY (kind, ref, id)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

-- How the last apply ended that a node made with each of its numbers. A node that lost the connection asks with the same number again, and is told.
CREATE TABLE @schema@.applies (
	node     bigint NOT NULL,
	slot     integer NOT NULL,
	sequence bigint NOT NULL,
	outcome  integer NOT NULL,
	at       timestamptz NOT NULL,
	PRIMARY KEY (node, slot)
) WITH (fillfactor = 50);

-- told notifies those who listen of rows that were changed: of each, or of their kinds when they are many.
CREATE FUNCTION @schema@.told(of_kinds text[], of_ids text[]) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF cardinality(of_ids) <= 64 THEN
		PERFORM pg_notify(@channel@, k || ' ' || i) FROM unnest(of_kinds, of_ids) AS c (k, i);
	ELSE
		PERFORM pg_notify(@channel@, k) FROM (SELECT DISTINCT k FROM unnest(of_kinds) AS c (k)) AS kinds;
	END IF;
END $$;

-- unlist deletes the references of a row but those that it keeps. One by one: so each is found by the whole key, whatever the planner thinks of the table.
CREATE FUNCTION @schema@.unlist(of_kind text, of_id text, was text[], kept text[]) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
	r text;
BEGIN
	FOREACH r IN ARRAY was LOOP
		CONTINUE WHEN r = ANY (kept);
		DELETE FROM @schema@.refs WHERE kind = of_kind AND ref = r AND id = of_id;
	END LOOP;
END $$;

-- ahead locks all that the applies of a group will, in the order in which all do. They are calls of the same transaction.
CREATE FUNCTION @schema@.ahead(by_node bigint, slots integer[], kinds text[], ids text[]) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '4s' SET enable_seqscan = off SET jit = off AS $$
#variable_conflict use_column
BEGIN
	FOR i IN 1..cardinality(slots) LOOP
		PERFORM 1 FROM @schema@.applies WHERE node = by_node AND slot = slots[i] FOR UPDATE;
	END LOOP;
	PERFORM pg_advisory_xact_lock_shared(@lock@);
	FOR i IN 1..cardinality(ids) LOOP
		PERFORM 1 FROM @schema@.rows WHERE kind = kinds[i] AND id = ids[i] FOR UPDATE;
	END LOOP;
END $$;

-- apply makes all changes or none. They come in the order of kind and id, in which all lock rows. It returns 0 when they were made; the number of the first
-- change that lost its compare-and-swap; -1 for a call that was given up, and the node has made another one since with its number; -2 when the vault is frozen.
-- Called again with a sequence that has come before it changes nothing, and returns what it returned then.
CREATE FUNCTION @schema@.apply(
	by_node bigint, by_slot integer, by_sequence bigint,
	ops integer[], kinds text[], ids text[], versions bigint[], states text[], all_refs text[], dues bigint[], deletions bigint[], seals bytea[]
) RETURNS integer LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '4s' SET enable_seqscan = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
	n        integer := cardinality(ids);
	result   integer := 0;
	frozen   text;
	ends     boolean := false;
	stored   record;
	before   text[] := array_fill(''::text, ARRAY[cardinality(ids)]); -- references of rows that are there
	was      text[];
	new_refs text[];
BEGIN
	UPDATE @schema@.applies SET sequence = by_sequence, outcome = 0, at = now() WHERE node = by_node AND slot = by_slot AND sequence < by_sequence;
	IF NOT FOUND THEN
		INSERT INTO @schema@.applies (node, slot, sequence, outcome, at) VALUES (by_node, by_slot, by_sequence, 0, now()) ON CONFLICT DO NOTHING;
		IF NOT FOUND THEN
			SELECT sequence, outcome INTO stored FROM @schema@.applies WHERE node = by_node AND slot = by_slot;
			IF stored.sequence = by_sequence THEN
				RETURN stored.outcome;
			END IF;
			RETURN -1;
		END IF;
	END IF;

	-- Who freezes the vault takes this lock alone, and so waits for what runs.
	PERFORM pg_advisory_xact_lock_shared(@lock@);
	SELECT value INTO frozen FROM @schema@.meta WHERE key = 'freeze' AND value <> '';

	<<judging>>
	BEGIN
		FOR i IN 1..n LOOP
			IF ops[i] = 1 THEN
				PERFORM 1 FROM @schema@.rows WHERE kind = kinds[i] AND id = ids[i];
				IF FOUND THEN
					result := i;
					EXIT judging;
				END IF;
			ELSE
				SELECT version, state, refs INTO stored FROM @schema@.rows WHERE kind = kinds[i] AND id = ids[i] FOR UPDATE;
				IF NOT FOUND OR stored.version <> versions[i] - (ops[i] = 2)::integer THEN
					result := i;
					EXIT judging;
				END IF;
				before[i] := array_to_string(stored.refs, ' ');
				ends := ends OR ops[i] = 2 AND kinds[i] = 'account' AND stored.state = 'refreshing';
			END IF;
		END LOOP;

		IF frozen IS NOT NULL AND NOT (ends AND frozen::json ->> 'state' = 'draining') THEN
			result := -2;
			EXIT judging;
		END IF;

		FOR i IN 1..n LOOP
			CONTINUE WHEN ops[i] <> 1;
			new_refs := string_to_array(all_refs[i], ' ');
			INSERT INTO @schema@.rows (kind, id, version, state, refs, due, delete_after, sealed)
				VALUES (kinds[i], ids[i], 1, states[i], new_refs, dues[i], deletions[i], seals[i]) ON CONFLICT DO NOTHING;
			IF NOT FOUND THEN -- somebody else was faster, between the look above and this
				FOR j IN 1..i - 1 LOOP
					CONTINUE WHEN ops[j] <> 1;
					DELETE FROM @schema@.rows WHERE kind = kinds[j] AND id = ids[j];
					PERFORM @schema@.unlist(kinds[j], ids[j], string_to_array(all_refs[j], ' '), '{}');
				END LOOP;
				result := i;
				EXIT judging;
			END IF;
			INSERT INTO @schema@.refs (kind, ref, id) SELECT kinds[i], r, ids[i] FROM unnest(new_refs) AS u (r);
		END LOOP;

		FOR i IN 1..n LOOP
			CONTINUE WHEN ops[i] = 1;
			was := string_to_array(before[i], ' ');
			IF ops[i] = 2 THEN
				new_refs := string_to_array(all_refs[i], ' ');
				UPDATE @schema@.rows SET version = versions[i], state = states[i], refs = new_refs, due = dues[i], delete_after = deletions[i], sealed = seals[i]
					WHERE kind = kinds[i] AND id = ids[i];
			ELSE
				new_refs := '{}';
				DELETE FROM @schema@.rows WHERE kind = kinds[i] AND id = ids[i];
			END IF;
			CONTINUE WHEN was = new_refs;
			PERFORM @schema@.unlist(kinds[i], ids[i], was, new_refs);
			INSERT INTO @schema@.refs (kind, ref, id) SELECT kinds[i], r, ids[i] FROM unnest(new_refs) AS u (r) WHERE r <> ALL (was);
		END LOOP;
		PERFORM @schema@.told(kinds, ids);
		RETURN 0;
	END judging;

	UPDATE @schema@.applies SET outcome = result WHERE node = by_node AND slot = by_slot;
	RETURN result;
END $$;

-- sweep deletes at most so many rows of a kind whose time has come, the oldest first, and returns their ids. It waits for nobody: rows that somebody changes at the
-- moment are left for the next time. It returns null when the vault is frozen.
CREATE FUNCTION @schema@.sweep(of_kind text, before bigint, most integer) RETURNS text[] LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
	SET lock_timeout = '4s' SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
	gone text[];
	was  text[]; -- their references
BEGIN
	PERFORM pg_advisory_xact_lock_shared(@lock@);
	PERFORM 1 FROM @schema@.meta WHERE key = 'freeze' AND value <> '';
	IF FOUND THEN
		RETURN NULL;
	END IF;
	SELECT array_agg(old.id), array_agg(old.refs) INTO gone, was FROM (
		SELECT id, array_to_string(refs, ' ') AS refs FROM @schema@.rows WHERE kind = of_kind AND delete_after < before ORDER BY delete_after, id LIMIT most FOR UPDATE SKIP LOCKED
	) AS old;
	IF gone IS NULL THEN
		RETURN '{}';
	END IF;
	FOR i IN 1..cardinality(gone) LOOP
		DELETE FROM @schema@.rows WHERE kind = of_kind AND id = gone[i];
		PERFORM @schema@.unlist(of_kind, gone[i], string_to_array(was[i], ' '), '{}');
	END LOOP;
	PERFORM @schema@.told(array_fill(of_kind, ARRAY[cardinality(gone)]), gone);
	RETURN gone;
END $$;

-- The functions below walk indexes in their order, and are not left to what the planner believes of tables that were never analyzed. Of several lists of references,
-- when one is short its rows are looked up in the others; otherwise all are merged. They are stable: a call sees one moment.

-- carrying makes a query of the ids of rows that carry all references ($2), or all rows when there are none, and come after an id ($3).
CREATE FUNCTION @schema@.carrying(of_kind text, of_refs text[]) RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
	few   constant integer := 1000;
	fewest integer := few + 1;
	first integer := 1;
	n     integer;
	lists constant text := @name@ || '.refs';
	joins text := 'FROM ' || lists || ' AS r';
	conditions text;
BEGIN
	IF cardinality(of_refs) = 0 THEN
		RETURN 'FROM ' || @name@ || '.rows AS r WHERE r.kind = $1 AND r.id > $3';
	END IF;
	FOR i IN 1..cardinality(of_refs) LOOP
		EXIT WHEN cardinality(of_refs) = 1;
		SELECT count(*) INTO n FROM (SELECT 1 FROM @schema@.refs WHERE kind = of_kind AND ref = of_refs[i] LIMIT fewest) AS found;
		IF n < fewest THEN
			fewest := n;
			first := i;
		END IF;
	END LOOP;
	conditions := format(' WHERE r.kind = $1 AND r.ref = $2[%s] AND r.id > $3', first);
	FOR i IN 1..cardinality(of_refs) LOOP
		CONTINUE WHEN i = first;
		IF fewest <= few THEN
			conditions := conditions || format(' AND EXISTS (SELECT 1 FROM %s AS o WHERE o.kind = $1 AND o.ref = $2[%s] AND o.id = r.id OFFSET 0)', lists, i);
		ELSE
			joins := joins || format(' JOIN %2$s AS r%1$s ON r%1$s.kind = $1 AND r%1$s.ref = $2[%1$s] AND r%1$s.id > $3 AND r%1$s.id = r.id', i, lists);
		END IF;
	END LOOP;
	RETURN joins || conditions;
END $$;

-- page returns at most so many rows that carry all references and come after an id.
CREATE FUNCTION @schema@.page(of_kind text, of_refs text[], after text, most integer) RETURNS SETOF @schema@.rows LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET enable_nestloop = off SET enable_hashjoin = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
	ids text[];
BEGIN
	EXECUTE 'SELECT array_agg(id) FROM (SELECT r.id ' || @schema@.carrying(of_kind, of_refs) || ' ORDER BY r.id LIMIT $4) AS page' INTO ids USING of_kind, of_refs, after, most;
	RETURN QUERY SELECT found.* FROM unnest(ids) AS u (i), LATERAL (SELECT * FROM @schema@.rows WHERE kind = of_kind AND id = u.i OFFSET 0) AS found;
END $$;

-- tally counts the rows that carry all references.
CREATE FUNCTION @schema@.tally(of_kind text, of_refs text[]) RETURNS bigint LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET enable_nestloop = off SET enable_hashjoin = off SET jit = off AS $$
DECLARE
	n bigint;
BEGIN
	EXECUTE 'SELECT count(*) ' || @schema@.carrying(of_kind, of_refs) INTO n USING of_kind, of_refs, '';
	RETURN n;
END $$;

-- overdue returns at most so many rows that are due before a time, the oldest first.
CREATE FUNCTION @schema@.overdue(of_kind text, before bigint, most integer) RETURNS SETOF @schema@.rows LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
#variable_conflict use_column
BEGIN
	RETURN QUERY SELECT * FROM @schema@.rows WHERE kind = of_kind AND due < before ORDER BY due, id LIMIT most;
END $$;

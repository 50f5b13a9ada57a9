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
CREATE FUNCTION @schema@.told(of_kinds text[], of_ids text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF cardinality(of_ids) <= 64 THEN
		PERFORM pg_notify(@channel@, k || ' ' || i) FROM unnest(of_kinds, of_ids) AS c (k, i);
	ELSE
		PERFORM pg_notify(@channel@, k) FROM (SELECT DISTINCT k FROM unnest(of_kinds) AS c (k)) AS kinds;
	END IF;
END $$;

-- apply makes all changes or none. They come in the order of kind and id, in which all lock rows. It returns 0 when they were made; the number of the first
-- change that lost its compare-and-swap; -1 for a call that was given up, and the node has made another one since with its number; -2 when the vault is frozen.
-- Called again with a sequence that has come before it changes nothing, and returns what it returned then.
CREATE FUNCTION @schema@.apply(
	by_node bigint, by_slot integer, by_sequence bigint,
	ops integer[], kinds text[], ids text[], versions bigint[], states text[], all_refs text[], dues bigint[], deletions bigint[], seals bytea[]
) RETURNS integer LANGUAGE plpgsql SET lock_timeout = '4s' SET enable_seqscan = off AS $$
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
					DELETE FROM @schema@.refs WHERE kind = kinds[j] AND id = ids[j] AND ref = ANY (string_to_array(all_refs[j], ' '));
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
			DELETE FROM @schema@.refs WHERE kind = kinds[i] AND id = ids[i] AND ref = ANY (was) AND ref <> ALL (new_refs);
			INSERT INTO @schema@.refs (kind, ref, id) SELECT kinds[i], r, ids[i] FROM unnest(new_refs) AS u (r) WHERE r <> ALL (was);
		END LOOP;
		PERFORM @schema@.told(kinds, ids);
		RETURN 0;
	END judging;

	-- Nothing was changed, so nothing is lost with this but the answer to a question that is asked again.
	PERFORM set_config('synchronous_commit', 'off', true);
	UPDATE @schema@.applies SET outcome = result WHERE node = by_node AND slot = by_slot;
	RETURN result;
END $$;

-- sweep deletes at most so many rows of a kind whose time has come, the oldest first, and returns their ids. It waits for nobody: rows that somebody changes at the
-- moment are left for the next time. It returns null when the vault is frozen.
CREATE FUNCTION @schema@.sweep(of_kind text, before bigint, most integer) RETURNS text[] LANGUAGE plpgsql SET lock_timeout = '4s' SET enable_seqscan = off AS $$
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
	WITH old AS (
		SELECT id FROM @schema@.rows WHERE kind = of_kind AND delete_after < before ORDER BY delete_after, id LIMIT most FOR UPDATE SKIP LOCKED
	), deleted AS (
		DELETE FROM @schema@.rows USING old WHERE kind = of_kind AND rows.id = old.id RETURNING rows.id, array_to_string(rows.refs, ' ') AS refs
	)
	SELECT array_agg(id), array_agg(refs) INTO gone, was FROM deleted;
	IF gone IS NULL THEN
		RETURN '{}';
	END IF;
	-- A statement of its own, since the one above does not see references that were written after it began.
	DELETE FROM @schema@.refs USING (SELECT i, r FROM unnest(gone, was) AS g (i, rs), unnest(string_to_array(rs, ' ')) AS u (r)) AS d
		WHERE kind = of_kind AND ref = d.r AND refs.id = d.i;
	PERFORM @schema@.told(array_fill(of_kind, ARRAY[cardinality(gone)]), gone);
	RETURN gone;
END $$;

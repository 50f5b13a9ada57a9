-- apply makes all changes or none. They come in the order of kind and id, in which all lock rows. It returns 0 when they were made; the number of the first
-- change that lost its compare-and-swap, that of a check (operation 5) only when no other did; -1 for a call that was given up, and the node has made another one since with its number; -2 when the vault is frozen.
-- Called again with a sequence that has come before it changes nothing, and returns what it returned then.
CREATE OR REPLACE FUNCTION @schema@.apply(
	by_node bigint, by_slot integer, by_sequence bigint,
	ops integer[], kinds text[], ids text[], versions bigint[], states text[], all_refs text[], dues bigint[], deletions bigint[], seals bytea[]
) RETURNS integer LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '4s' SET enable_seqscan = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
	n        integer := cardinality(ids);
	result   integer := 0;
	frozen   text;
	ends     boolean := false;
	rings    boolean := false;
	failed   integer := 0; -- a check
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

	-- Who freezes the vault takes this lock alone, and so waits for what runs; and who changes the keyring, so that it is as it was checked until what was checked with it is made.
	FOR i IN 1..n LOOP
		rings := rings OR kinds[i] = 'keyring' AND ops[i] <> 5;
	END LOOP;
	IF rings THEN
		PERFORM pg_advisory_xact_lock(@lock@);
	ELSE
		PERFORM pg_advisory_xact_lock_shared(@lock@);
	END IF;
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
			ELSIF ops[i] = 5 THEN
				IF coalesce((SELECT version FROM @schema@.rows WHERE kind = kinds[i] AND id = ids[i]), 0) <> versions[i] THEN
					failed := i;
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

		IF failed > 0 THEN
			result := failed;
			EXIT judging;
		END IF;

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
			CONTINUE WHEN ops[i] IN (1, 5);
			IF ops[i] = 4 THEN
				UPDATE @schema@.rows SET sealed = seals[i] WHERE kind = kinds[i] AND id = ids[i];
				CONTINUE;
			END IF;
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
		PERFORM @schema@.told(array_agg(k), array_agg(c)) FROM unnest(ops, kinds, ids) AS u (o, k, c) WHERE o <> 5 HAVING count(*) > 0;
		RETURN 0;
	END judging;

	UPDATE @schema@.applies SET outcome = result WHERE node = by_node AND slot = by_slot;
	RETURN result;
END $$;

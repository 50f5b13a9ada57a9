-- freeze takes the vault from one state to another, and waits for applies that run. It returns false when the vault is in another state than was, or the new one already.
CREATE FUNCTION @schema@.freeze(was text, will_be text) RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '4s' AS $$
DECLARE
	now_is text;
BEGIN
	PERFORM pg_advisory_xact_lock(@lock@);
	SELECT value INTO now_is FROM @schema@.meta WHERE key = 'freeze';
	IF coalesce(now_is, '') = will_be THEN -- as when the answer was lost, and it is asked again
		RETURN true;
	END IF;
	IF coalesce(now_is, '') <> was THEN
		RETURN false;
	END IF;
	INSERT INTO @schema@.meta (key, value) VALUES ('freeze', will_be) ON CONFLICT (key) DO UPDATE SET value = will_be;
	RETURN true;
END $$;

-- import writes rows of a kind as they are, over what is there, and deletes others. It returns false when the vault is not being filled.
CREATE FUNCTION @schema@.import(
	of_kind text, ids text[], versions bigint[], states text[], all_refs text[], dues bigint[], deletions bigint[], seals bytea[], gone text[]
) RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '4s' SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
	frozen text;
	old    text[];
	was    text[]; -- their references
BEGIN
	PERFORM pg_advisory_xact_lock_shared(@lock@);
	SELECT value INTO frozen FROM @schema@.meta WHERE key = 'freeze' AND value <> '';
	IF frozen IS NULL OR frozen::json ->> 'state' <> 'filling' THEN
		RETURN false;
	END IF;
	WITH deleted AS (
		DELETE FROM @schema@.rows WHERE kind = of_kind AND id = ANY (ids || gone) RETURNING id, array_to_string(refs, ' ') AS refs
	)
	SELECT array_agg(id), array_agg(refs) INTO old, was FROM deleted;
	IF old IS NOT NULL THEN
		DELETE FROM @schema@.refs USING (SELECT i, r FROM unnest(old, was) AS o (i, rs), unnest(string_to_array(rs, ' ')) AS u (r)) AS d
			WHERE kind = of_kind AND ref = d.r AND refs.id = d.i;
	END IF;
	INSERT INTO @schema@.rows (kind, id, version, state, refs, due, delete_after, sealed)
		SELECT of_kind, i, v, s, string_to_array(rs, ' '), d, x, b FROM unnest(ids, versions, states, all_refs, dues, deletions, seals) AS u (i, v, s, rs, d, x, b);
	INSERT INTO @schema@.refs (kind, ref, id)
		SELECT of_kind, r, i FROM unnest(ids, all_refs) AS u (i, rs), unnest(string_to_array(rs, ' ')) AS v (r);
	PERFORM @schema@.told(array_fill(of_kind, ARRAY[cardinality(ids || gone)]), ids || gone);
	RETURN true;
END $$;

-- When the bucket of each key is empty again, in microseconds since 1970. A crash of the database empties all of them, which harms nobody: so nothing of it goes to the log
-- that is written ahead, and no event waits for the disk.
CREATE UNLOGGED TABLE @schema@.rates (
	key   text COLLATE "C" PRIMARY KEY CHECK (length(key) BETWEEN 1 AND 128),
	empty bigint NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.1);

-- take charges an event under a key and returns 0; or charges nothing, and returns in how many microseconds there is one. Of several at a time one goes after the other, by the row's lock.
CREATE FUNCTION @schema@.take(of_key text, interval_us bigint, window_us bigint) RETURNS bigint LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	moment bigint := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
	until  bigint;
BEGIN
	IF interval_us > window_us THEN
		RETURN interval_us;
	END IF;
	INSERT INTO @schema@.rates AS r (key, empty) VALUES (of_key, moment + interval_us)
		ON CONFLICT (key) DO UPDATE SET empty = greatest(r.empty, moment) + interval_us WHERE greatest(r.empty, moment) + interval_us <= moment + window_us;
	IF FOUND THEN
		RETURN 0;
	END IF;
	SELECT empty INTO until FROM @schema@.rates WHERE key = of_key;
	RETURN greatest(coalesce(until, 0) + interval_us - window_us - moment, 1);
END $$;

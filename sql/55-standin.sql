CREATE FUNCTION rsvp_sync._known_events(source bigint, uris text[])
RETURNS TABLE (uri text, event_key text)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE sch text := (SELECT n.nspname FROM rsvp_sync._source s JOIN pg_class c ON c.oid = s.attendance JOIN pg_namespace n ON n.oid=c.relnamespace WHERE s.source_id = source);
BEGIN
	RETURN QUERY EXECUTE format($q$SELECT u, e.id::text FROM unnest($1) u JOIN %I.events e
		ON (e."sourceData"->>'did') = split_part(u,'/',3) AND (e."sourceData"->>'rkey') = split_part(u,'/',5)$q$, sch) USING uris;
END $$;
CREATE FUNCTION rsvp_sync._apply(source bigint, dids text[], event_uris text[], statuses text[], rsvps text[])
RETURNS TABLE (n integer, key text, error text, code text)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE sch text := (SELECT n.nspname FROM rsvp_sync._source s JOIN pg_class c ON c.oid = s.attendance JOIN pg_namespace n ON n.oid=c.relnamespace WHERE s.source_id = source);
	u integer; e text; w text;
BEGIN
	FOR i IN 1 .. cardinality(dids) LOOP
		n := i; key := NULL; error := NULL;
		SELECT k.event_key INTO e FROM rsvp_sync._known_events(source, event_uris[i:i]) k;
		IF NOT FOUND THEN RETURN NEXT; CONTINUE; END IF;
		EXECUTE format('SELECT id FROM %I.users WHERE preferences->''bluesky''->>''did'' = $1', sch) INTO u USING dids[i];
		IF u IS NULL THEN
			EXECUTE format('INSERT INTO %I.users (id, name, preferences) SELECT coalesce(max(id),0)+1, ''shadow'', jsonb_build_object(''bluesky'', jsonb_build_object(''did'', $1)) FROM %1$I.users RETURNING id', sch) INTO u USING dids[i];
		END IF;
		w := CASE statuses[i] WHEN 'going' THEN 'confirmed' WHEN 'interested' THEN 'maybe' ELSE 'cancelled' END;
		BEGIN
			EXECUTE format('UPDATE %I.attendance SET status = $3::text::%1$I.attendance_status WHERE event_id = $1 AND user_id = $2 AND NOT (status = ''attended'' AND $3 = ''confirmed'') RETURNING id', sch) INTO key USING e::int, u, w;
			IF key IS NULL AND statuses[i] IS NOT NULL THEN
				EXECUTE format('INSERT INTO %I.attendance (event_id, user_id, status) VALUES ($1,$2,$3::text::%1$I.attendance_status) RETURNING id', sch) INTO key USING e::int, u, w;
			END IF;
			key := coalesce(key, '');
		EXCEPTION WHEN OTHERS THEN key := NULL; error := SQLERRM; code := SQLSTATE;
		END;
		RETURN NEXT;
	END LOOP;
END $$;

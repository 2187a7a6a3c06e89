/*
 * Nothing but the pure functions is for PUBLIC.  New functions are executable
 * by everybody unless it is taken away; this is the one place where it is,
 * for all at once, so that none can be forgotten.
 *
 * _log_change() is the exception.  A partition made or attached later gets a
 * copy of its parent's row trigger, and whoever makes it must be allowed to
 * execute the function, or CREATE TABLE fails.  Who makes such a trigger on a
 * table of his own makes log entries that the worker drops: see _may_speak().
 * (_log_truncate() is never copied.)
 */
DO $$
DECLARE
	f regprocedure;
BEGIN
	FOR f IN SELECT p.oid::pg_catalog.regprocedure
		FROM pg_catalog.pg_proc p
		WHERE p.pronamespace OPERATOR(pg_catalog.=)
				'rsvp_sync'::pg_catalog.regnamespace
			AND p.proname OPERATOR(pg_catalog.<>) ALL (ARRAY[
				'is_at_uri', 'is_did', 'is_handle', 'is_nsid',
				'is_record_key', 'is_tid', 'is_datetime', 'is_cid',
				'parse_at_uri', 'tid_now', 'record_cid',
				'rsvp_status_map', 'plan', 'classify', 'rsvp_html', 'rsvp_badge',
				'rsvp_rss_item', 'rsvp_ics', 'rsvp_activity', 'parse_activity',
				'validate_rsvp_submission', 'webmention_endpoint', 'parse_h_entry',
				'_log_change',
				'_escape', '_is_link', '_instant', '_bad_document', '_read_document',
				'_html_part', '_html_author', '_rfc822', '_rsvp_uid', '_ics_instant',
				'_activity', '_undo', '_activities', '_as_get', '_as_list', '_as_types',
				'_as_id', '_as_events',
				'_may_see', '_is_all_paused', '_queued_state', '_reason', '_rsvp_uri',
				'_copied', '_stat_worker', '_stat_stream']::pg_catalog.name[])
	LOOP
		EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
	END LOOP;
END
$$;

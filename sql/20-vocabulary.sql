/*
 * The words for an attendance, in the vocabularies it is spoken of.
 *
 * One table, one meaning a row.  A row's word in one vocabulary is what a
 * word of another is translated to.  Several meanings may share a word:
 * AT Protocol says "interested" for maybe, too.  Such a word is read as one
 * of its meanings only, and "lossy" names, in the rows of the others, the
 * vocabularies in which the meaning is lost.  So in every vocabulary each
 * word has exactly one row in which it is not lossy.
 *
 * There is no column for a guess: what a vocabulary cannot say is NULL.
 */
CREATE FUNCTION rsvp_sync.rsvp_status_map()
RETURNS TABLE (
	openmeet text,
	atproto text,
	indieweb text,
	activitypub text,
	partstat text,
	schemaorg text,
	as1 text,
	lossy text[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 10
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT m.openmeet,
		'community.lexicon.calendar.rsvp#' || m.atproto,
		m.indieweb, m.activitypub, m.partstat,
		'RsvpResponse' || m.schemaorg,
		m.as1,
		m.lossy::text[]
	FROM (VALUES
		('confirmed', 'going', 'yes', 'Accept', 'ACCEPTED', 'Yes', 'rsvp-yes', '{}'),
		('maybe', 'interested', 'maybe', 'TentativeAccept', 'TENTATIVE', 'Maybe', 'rsvp-maybe', '{atproto}'),
		('maybe', 'interested', 'interested', 'TentativeAccept', 'TENTATIVE', 'Maybe', 'rsvp-interested', '{openmeet,activitypub,partstat,schemaorg}'),
		('cancelled', 'notgoing', 'no', 'Reject', 'DECLINED', 'No', 'rsvp-no', '{}'),
		('invited', NULL, NULL, 'Invite', 'NEEDS-ACTION', NULL, 'invite', '{}'),
		('pending', 'interested', NULL, NULL, 'NEEDS-ACTION', NULL, NULL, '{atproto,partstat}'),
		('waitlist', 'interested', NULL, NULL, NULL, NULL, NULL, '{atproto}'),
		('rejected', NULL, NULL, NULL, NULL, NULL, NULL, '{}'),
		('attended', 'going', NULL, NULL, NULL, NULL, NULL, '{atproto}'),
		(NULL, NULL, NULL, NULL, 'DELEGATED', NULL, NULL, '{}')
	) AS m (openmeet, atproto, indieweb, activitypub, partstat, schemaorg, as1, lossy);
END;

COMMENT ON FUNCTION rsvp_sync.rsvp_status_map() IS
'The words for an attendance in each vocabulary, one meaning a row; NULL where a vocabulary has no word. lossy names the vocabularies whose word in this row is read as another row''s meaning. Sources: community.lexicon.calendar.rsvp, microformats h-entry p-rsvp, Activity Vocabulary, RFC 5545 3.2.12, schema.org RsvpResponseType, Activity Streams 1.';

/*
 * One word translated.  Spellings that a vocabulary itself holds equal are
 * folded first, and no others: what is then not in the table is unknown, and
 * the answer is NULL rather than the nearest word.
 */
CREATE FUNCTION rsvp_sync.rsvp_status_map(status text, source text, target text)
RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	known CONSTANT text[] := '{openmeet,atproto,indieweb,activitypub,partstat,schemaorg,as1}';
	unknown CONSTANT text := CASE
		WHEN source <> ALL (known) THEN source
		WHEN target <> ALL (known) THEN target END;
	word text;
BEGIN
	IF unknown IS NOT NULL THEN
		RAISE EXCEPTION 'unknown RSVP vocabulary "%"', unknown
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Known vocabularies: ' || array_to_string(known, ', ') || '.';
	END IF;

	word := CASE source
		WHEN 'indieweb' THEN lower(status COLLATE "C")
		WHEN 'partstat' THEN upper(status COLLATE "C")
		WHEN 'atproto' THEN regexp_replace(status COLLATE "C",
			'^((community\.lexicon|events\.smokesignal)\.calendar\.rsvp#)?(going|interested|notgoing)$',
			'community.lexicon.calendar.rsvp#\3')
		WHEN 'activitypub' THEN
			CASE status WHEN 'Join' THEN 'Accept' WHEN 'Leave' THEN 'Reject' ELSE status END
		WHEN 'schemaorg' THEN
			regexp_replace(status COLLATE "C", '^https?://schema\.org/', '')
		ELSE status
	END;

	RETURN (
		SELECT to_jsonb(m) ->> target
		FROM rsvp_sync.rsvp_status_map() AS m
		WHERE to_jsonb(m) ->> source = word AND source <> ALL (m.lossy));
END;
$$;

COMMENT ON FUNCTION rsvp_sync.rsvp_status_map(text, text, text) IS
'The word of the target vocabulary for a status in the words of the source vocabulary; NULL for a word the source does not know, and where the target has none. Vocabularies: openmeet, atproto, indieweb, activitypub, partstat, schemaorg, as1; any other is an error (22023). Read besides the words of rsvp_status_map(): indieweb and partstat in any case, atproto also as a bare word and as a token of events.smokesignal.calendar.rsvp, activitypub Join and Leave, schemaorg as a URL.';

-- classify(): what an answer asks of us.  Every row of the table of errors, by
-- name in the body; then names elsewhere, statuses without a name, nonsense.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS rsvp_sync;
CREATE ROLE regress_classify;

CREATE TEMP TABLE known (name text, status integer, class text);
INSERT INTO known VALUES
	('InvalidRequest', 400, 'permanent'),
	('InvalidSwap', 400, 'reread'),
	('ExpiredToken', 400, 'refresh'),
	('InvalidToken', 400, 'refresh'),
	('RecordNotFound', 400, 'absent'),
	('RepoNotFound', 400, 'user'),
	('RepoTakendown', 400, 'user'),
	('RepoDeactivated', 400, 'user'),
	('RepoSuspended', 400, 'user'),
	('AuthMissing', 401, 'refresh'),
	('AuthenticationRequired', 401, 'user'),
	('AuthFactorTokenRequired', 401, 'user'),
	('AccountTakedown', 401, 'user'),
	('AccountDeactivated', 401, 'user'),
	('invalid_token', 401, 'refresh'),
	('use_dpop_nonce', 401, 'refresh'),
	('use_dpop_nonce', 400, 'refresh'),
	('invalid_dpop_proof', 401, 'refresh'),
	('MissingTokenId', 401, 'refresh'),
	('UntrustedIss', 401, 'refresh'),
	('BadJwt', 401, 'refresh'),
	('BadJwtSignature', 401, 'refresh'),
	('JwtExpired', 401, 'refresh'),
	('AccountNotFound', 403, 'user'),
	('ScopeMissingError', 403, 'user'),
	('Forbidden', 403, 'permanent'),
	('XRPCNotSupported', 404, 'retry'),
	('NotAcceptable', 406, 'permanent'),
	('UnsupportedMediaType', 415, 'permanent'),
	('PayloadTooLarge', 413, 'permanent'),
	('PayloadTooLargeError', 413, 'permanent'),
	('RateLimitExceeded', 429, 'limit'),
	('InternalServerError', 500, 'retry'),
	('MethodNotImplemented', 501, 'permanent'),
	('UpstreamFailure', 502, 'retry'),
	('NotEnoughResources', 503, 'retry'),
	('UpstreamTimeout', 504, 'retry'),
	('invalid_grant', 400, 'user'),
	('invalid_client', 401, 'user'),
	('invalid_client_metadata', 400, 'user'),
	('unauthorized_client', 400, 'user'),
	('invalid_request', 400, 'user'),
	('server_error', 500, 'retry'),
	('HandleNotFound', 400, 'user'),
	('DidNotFound', 400, 'user'),
	('DidDeactivated', 400, 'user');

-- Nothing is to come of these: the class is the table's, ...
SELECT k.*, c.class AS found FROM known k
CROSS JOIN LATERAL rsvp_sync.classify(k.status,
	jsonb_build_object('error', k.name, 'message', 'x')::text, '{}') AS c (class)
WHERE c.class IS DISTINCT FROM k.class;
-- ... whatever the status, ...
SELECT k.*, s.status AS other, c.class AS found FROM known k
CROSS JOIN (VALUES (400), (401), (404), (418), (500), (503)) AS s (status)
CROSS JOIN LATERAL rsvp_sync.classify(s.status,
	jsonb_build_object('error', k.name)::text, NULL) AS c (class)
WHERE c.class IS DISTINCT FROM k.class;
-- ... and wherever it stands
SELECT k.*, c.class AS found FROM known k
CROSS JOIN LATERAL rsvp_sync.classify(k.status, NULL, jsonb_build_object(
	'WWW-Authenticate', format('DPoP error="%s", error_description="x"', k.name)))
	AS c (class)
WHERE c.class IS DISTINCT FROM k.class;

-- By the status where there is no name, or one we do not know
SELECT s.status, rsvp_sync.classify(s.status, NULL, NULL) AS none,
	rsvp_sync.classify(s.status, '<html>Not here</html>', '{}') AS html,
	rsvp_sync.classify(s.status, '{"error": "SomethingNew"}', '{}') AS unknown
FROM unnest(ARRAY[NULL, 0, -1, 100, 200, 204, 301, 304, 400, 401, 403, 404, 405,
	408, 409, 413, 418, 425, 429, 451, 500, 501, 502, 503, 504, 520, 599, 999,
	2147483647, -2147483648]) AS s (status);

-- A success is one only if it is an object, where there is a body at all
SELECT body, rsvp_sync.classify(200, body, '{}')
FROM (VALUES ('{"uri": "at://x"}'), ('{"error": "InvalidSwap"}'), (''), ('[]'),
	('null'), ('{"uri": "at:'), ('<html>Sign in to WiFi</html>')) AS b (body);

-- The header: any spelling of its name, one value or several, last resort
SELECT headers, body, rsvp_sync.classify(401, body, headers::jsonb)
FROM (VALUES
	('{"www-authenticate": "DPoP error=\"ScopeMissingError\""}', NULL),
	('{"WWW-AUTHENTICATE": "Bearer error=invalid_grant"}', NULL),
	('{"WWW-Authenticate": ["Basic realm=\"x\"", "DPoP algs=\"ES256\", ERROR=\"invalid_grant\""]}', NULL),
	('{"WWW-Authenticate": "DPoP error_description=\"an error=invalid_grant\""}', NULL),
	('{"WWW-Authenticate": "DPoP noerror=\"invalid_grant\""}', NULL),
	('{"WWW-Authenticate": "DPoP error=\"invalid_grant\""}', '{"error": "AuthMissing"}'),
	('{"WWW-Authenticate": "DPoP error=\"invalid_grant\""}', '{"error": "Unknown"}'),
	('{"WWW-Authenticate": "error="}', NULL),
	('{"WWW-Authenticate": "error=\""}', NULL),
	('{"X": {"WWW-Authenticate": "DPoP error=\"invalid_grant\""}}', NULL),
	('{"WWW-Authenticate": 7, "Age": "error=\"invalid_grant\""}', NULL)
	) AS h (headers, body);

-- Names that are none, bodies and headers of any shape
SELECT body, rsvp_sync.classify(400, body, '{}')
FROM (VALUES ('{"error": null}'), ('{"error": 5}'), ('{"error": ["InvalidSwap"]}'),
	('{"error": ""}'), ('{"error": "invalidswap"}'), ('{"error": "InvalidSwap "}'),
	('{"error": "InvalidSwap\u0000"}'), ('"InvalidSwap"'), ('[{"error": "InvalidSwap"}]'),
	('{"error": "InvalidSwap", "message": "Ä€"}'), ('{"error": "InvalidSwap"} and more'),
	('{"error": "Ä"}')) AS b (body);
SELECT headers, rsvp_sync.classify(503, '', headers::jsonb)
FROM (VALUES ('null'), ('[]'), ('5'), ('"www-authenticate"'),
	('["www-authenticate", "DPoP error=\"invalid_grant\""]')) AS h (headers);
SELECT rsvp_sync.classify(503, repeat('[', 1000000), '{}') AS deep,
	rsvp_sync.classify(400, '{"error": "' || repeat('x', 1000000) || '"}', '{}') AS long,
	rsvp_sync.classify(400, '', jsonb_build_object('www-authenticate',
		'error="' || repeat('x', 1000000) || '"')) AS long_header;

-- For everybody; and the planner may fold it
SET ROLE regress_classify;
EXPLAIN (COSTS off, VERBOSE) SELECT rsvp_sync.classify(429, NULL, NULL);
RESET ROLE;
DROP ROLE regress_classify;

/* rsvp_sync: install script, joined from the parts under sql/ by make. */

\echo Use "CREATE EXTENSION rsvp_sync" to load this file. \quit

/*
 * The schema is created here, by a plain CREATE: had somebody planted a
 * schema of this name before, the script fails instead of adopting it.
 */
CREATE SCHEMA rsvp_sync;
COMMENT ON SCHEMA rsvp_sync IS
'rsvp_sync: attendance rows and AT Protocol RSVP records in agreement';

/* The pure functions are for everybody; everything else is granted one by one. */
GRANT USAGE ON SCHEMA rsvp_sync TO PUBLIC;

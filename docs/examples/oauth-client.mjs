// An application that signs its users in by OAuth and leaves their sessions
// with rsvp_sync: https://www.npmjs.com/package/@atproto/oauth-client-node
// with the extension as its session store, and the extension's lease as its
// lock.  `db` is a pool of the package pg, `identity` the client's metadata
// (clientMetadata) and, if it is confidential, its keys (keyset).
import { setTimeout as sleep } from 'node:timers/promises'
import { NodeOAuthClient } from '@atproto/oauth-client-node'

const LEASE = '1 minute' // longer than the library takes for a refresh
const one = async (db, sql, ...values) => (await db.query(`SELECT rsvp_sync.${sql} AS value`, values)).rows[0].value

// Worker and application refresh a session in turn.  Each statement is a
// transaction of its own; nothing is held while the network is awaited.
const requestLock = (db) => async (name, work) => {
  const did = name.replace('@atproto-oauth-client-', '')
  let token
  while (!(token = await one(db, 'oauth_lock($1, $2)', did, LEASE))) await sleep(100 + 100 * Math.random())
  try {
    return await work()
  } finally {
    await one(db, 'oauth_unlock($1, $2)', did, token)
  }
}

const sessionStore = (db) => ({
  get: async (did) => (await one(db, 'oauth_session($1)', did)) ?? undefined,
  set: (did, session) => one(db, 'store_oauth_session($1, $2)', did, JSON.stringify(session)),
  del: (did) => one(db, 'store_oauth_session($1, NULL)', did),
})

export async function oauthClient(db, { clientMetadata, keyset, ...more }) {
  // Once is enough, at deployment; the worker signs in as this client, too.
  const jwk = keyset ? JSON.stringify(keyset[0].privateJwk) : null
  await one(db, 'set_oauth_client($1, $2)', clientMetadata.client_id, jwk)
  return new NodeOAuthClient({ clientMetadata, keyset, ...more, sessionStore: sessionStore(db), requestLock: requestLock(db) })
}
// const client = await oauthClient(db, { clientMetadata, stateStore })
// await client.callback(params)      a user is back: his RSVPs are published
// await client.restore(did)          the same session, for whatever else

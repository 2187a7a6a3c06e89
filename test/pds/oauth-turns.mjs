// The application of docs/examples/oauth-client.mjs, with the real library, as
// a test drives it.
//
//   run oauth-turns.mjs STATE.json ACCOUNT     with PGHOST and so on in the
//                                              environment
//
// Commands come by stdin, one a line; each is answered by a line of JSON.
//   login [SCOPE]   the user signs in
//   refresh         the library refreshes the session        {access_token}
//   token           ... if it is about to expire             {access_token}
//   put STATUS      a record, by the library's session       {status}
//   revoke          the library revokes it

import fs from 'node:fs'
import { createInterface } from 'node:readline'
import { registerHooks } from 'node:module'
import pg from 'pg'
import { identity, signIn, SCOPE } from './oauth.mjs'

// The example is in another folder, its packages are here.
registerHooks({
  resolve: (specifier, context, next) => next(specifier, specifier.startsWith('@') ? { ...context, parentURL: import.meta.url } : context),
})
const { oauthClient } = await import('../../docs/examples/oauth-client.mjs')

const state = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'))
const account = state.accounts[Number(process.argv[3])]
const states = new Map()
const client = await oauthClient(new pg.Pool(), {
  ...(await identity(state, { scope: SCOPE })),
  stateStore: { get: (k) => states.get(k), set: (k, v) => void states.set(k, v), del: (k) => void states.delete(k) },
  handleResolver: state.publicUrl,
  plcDirectoryUrl: state.plc,
  allowHttp: true,
  fetch: globalThis.fetch,
})
const commands = {
  async login(scope = SCOPE) {
    await client.callback(await signIn(await client.authorize(account.handle, { scope }), account, scope))
    return { did: account.did }
  },
  async refresh() {
    const session = await client.restore(account.did, true)
    return session.getTokenInfo(false)
  },
  async token() {
    const session = await client.restore(account.did)
    return session.getTokenInfo('auto')
  },
  async put(status) {
    const session = await client.restore(account.did)
    const collection = 'community.lexicon.calendar.rsvp'
    const answer = await session.fetchHandler('/xrpc/com.atproto.repo.putRecord', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ repo: account.did, collection, rkey: '3kothersubject', record: { $type: collection, subject: { uri: 'at://did:plc:aaaaaaaaaaaaaaaaaaaaaaaa/community.lexicon.calendar.event/3kother', cid: 'bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a' }, status: `${collection}#${status}`, createdAt: '2026-11-20T18:00:00.000Z' } }),
    })
    return { status: answer.status }
  },
  revoke: () => client.revoke(account.did),
}
console.log(JSON.stringify({ ready: true }))
for await (const line of createInterface({ input: process.stdin })) {
  const [command, ...args] = line.split(' ')
  const answer = await Promise.resolve(commands[command](...args)).catch((e) => ({ error: `${e.name}: ${e.message}${e.cause ? ` (${e.cause.message})` : ''}` }))
  console.log(JSON.stringify(answer ?? {}))
}
process.exit(0)

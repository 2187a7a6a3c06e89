// What tests do on the network themselves, as another application would.
// Prints the answer as JSON; a refusal goes to stderr and ends with status 1.
//
//   run client.mjs COMMAND STATE.json ...
//
//   create-event ACCOUNT NAME [STARTS_AT]    an event record -> {uri, cid}
//   put-event ACCOUNT URI RECORD_JSON        change it -> {uri, cid}
//   list ACCOUNT|DID [COLLECTION]            all records, all pages (default:
//                                            RSVPs) -> [{uri, cid, value}]
//   get URI                                  one record -> {uri, cid, value}
//   put-rsvp ACCOUNT EVENT_URI EVENT_CID STATUS [RKEY [EXTRA_JSON]]
//                                            -> {uri, cid, commit}; EXTRA's
//                                            members are put over the record's
//   delete-record ACCOUNT URI
//   app-password ACCOUNT NAME                -> {name, password, ...}
//   revoke-app-password ACCOUNT NAME
//   session ACCOUNT                          -> {did, accessJwt, refreshJwt ...}
//   deactivate ACCOUNT, activate ACCOUNT
//   latest-commit ACCOUNT|DID                -> {cid, rev}
//
// ACCOUNT is an index into STATE's accounts, from 0.  STATUS is going,
// interested, notgoing or a full token.

import fs from 'node:fs'
import { OWN_AGENT } from './faults.mjs'

const EVENT = 'community.lexicon.calendar.event'
const RSVP = 'community.lexicon.calendar.rsvp'

const [command, stateFile, ...args] = process.argv.slice(2)
const fail = (message) => { console.error(`client.mjs ${command ?? ''}: ${message}`); process.exit(1) }
if (!stateFile) fail('usage: client.mjs COMMAND STATE.json ... (see the head of the file)')
const state = JSON.parse(fs.readFileSync(stateFile, 'utf8'))

async function request(method, nsid, { query, body, token } = {}) {
  const url = `http://127.0.0.1:${state.port}/xrpc/${nsid}${query ? `?${new URLSearchParams(query)}` : ''}`
  const headers = { 'user-agent': OWN_AGENT }
  if (token) headers.authorization = `Bearer ${token}`
  if (body !== undefined) headers['content-type'] = 'application/json'
  const r = await fetch(url, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) })
  const text = await r.text()
  let value
  try { value = JSON.parse(text || '{}') } catch { value = { message: text } }
  return { ok: r.ok, status: r.status, value }
}
const must = (r, what) => (r.ok ? r.value : fail(`${what}: ${r.status} ${JSON.stringify(r.value)}`))
const account = (index) => state.accounts[Number(index)] ?? fail(`no account ${index}`)
const didOf = (who) => (who?.startsWith('did:') ? who : account(who).did)
const login = async (a) => must(await request('POST', 'com.atproto.server.createSession', { body: { identifier: a.did, password: a.password } }), 'createSession')

// With the token of the account's creation, or a new one if that is too old.
async function as(index, nsid, body) {
  const a = account(index)
  const first = await request('POST', nsid, { body, token: a.accessJwt })
  if (first.ok || !['ExpiredToken', 'InvalidToken'].includes(first.value.error)) return must(first, nsid)
  return must(await request('POST', nsid, { body, token: (await login(a)).accessJwt }), nsid)
}

const parts = (uri) => {
  const m = /^at:\/\/([^/]+)\/([^/]+)\/([^/]+)$/.exec(uri ?? '')
  return m ? { repo: m[1], collection: m[2], rkey: m[3] } : fail(`no at-uri of a record: ${uri}`)
}
const tid = () => {
  const digits = '234567abcdefghijklmnopqrstuvwxyz'
  let n = (BigInt(Date.now()) * 1000n << 10n) | BigInt(Math.floor(Math.random() * 1024))
  let s = ''
  for (let i = 0; i < 13; i++, n >>= 5n) s = digits[Number(n & 31n)] + s
  return s
}

const commands = {
  'create-event': ([index, name, startsAt]) => as(index, 'com.atproto.repo.createRecord', {
    repo: account(index).did,
    collection: EVENT,
    record: { $type: EVENT, name, createdAt: new Date().toISOString(), ...(startsAt && { startsAt }) },
  }).then(({ uri, cid }) => ({ uri, cid })),

  'put-event': ([index, uri, record]) => as(index, 'com.atproto.repo.putRecord', { ...parts(uri), record: { $type: EVENT, ...JSON.parse(record) } })
    .then(({ uri, cid }) => ({ uri, cid })),

  async list([who, collection = RSVP]) {
    const records = []
    let cursor
    do {
      const query = { repo: didOf(who), collection, limit: 100, ...(cursor && { cursor }) }
      const page = must(await request('GET', 'com.atproto.repo.listRecords', { query }), 'listRecords')
      records.push(...page.records)
      cursor = page.records.length ? page.cursor : undefined
    } while (cursor)
    return records
  },

  get: async ([uri]) => must(await request('GET', 'com.atproto.repo.getRecord', { query: parts(uri) }), 'getRecord'),

  'put-rsvp': ([index, eventUri, eventCid, status, rkey, extra]) => as(index, 'com.atproto.repo.putRecord', {
    repo: account(index).did,
    collection: RSVP,
    rkey: rkey || tid(),
    record: {
      $type: RSVP,
      subject: { uri: eventUri, cid: eventCid },
      status: /[#:.]/.test(status) ? status : `${RSVP}#${status}`,
      createdAt: new Date().toISOString(),
      ...JSON.parse(extra || '{}'),
    },
  }),

  'delete-record': ([index, uri]) => as(index, 'com.atproto.repo.deleteRecord', parts(uri)),
  'app-password': ([index, name]) => as(index, 'com.atproto.server.createAppPassword', { name }),
  'revoke-app-password': ([index, name]) => as(index, 'com.atproto.server.revokeAppPassword', { name }),
  session: ([index]) => login(account(index)),
  deactivate: ([index]) => as(index, 'com.atproto.server.deactivateAccount', {}),
  activate: ([index]) => as(index, 'com.atproto.server.activateAccount'),
  'latest-commit': async ([who]) => must(await request('GET', 'com.atproto.sync.getLatestCommit', { query: { did: didOf(who) } }), 'getLatestCommit'),
}

const run = commands[command] ?? fail(`unknown command; there are ${Object.keys(commands).join(', ')}`)
console.log(JSON.stringify(await run(args)))

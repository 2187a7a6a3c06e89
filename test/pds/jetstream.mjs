// A Jetstream server for the tests: what a PDS's firehose says, or what a test
// makes up, as events of both wires; and what such a server may do wrong.
//
//   run jetstream.mjs --json STATE.json [--upstream ws://localhost:PORT]
//     [--parent-pid N] [--port N] [--log-size N] [--quiet-start]
//
// STATE.json gets {pid, port, url, v2}.  GET /subscribe is the v1 wire, GET
// /xrpc/network.bsky.jetstream.subscribeEvents the v2 wire, both with cursors.
// The log is in memory; beyond --log-size events the oldest are forgotten.
//
// A test may ask over HTTP:
//   POST /_test/events    [{did, kind?, time_us?, commit|account|identity}]: say that
//   POST /_test/generate  {n, accounts, events, seed, organiser, ms}: n RSVP events of
//                         made-up accounts about made-up events, spread over ms;
//                         answers when all are said
//   GET  /_test/fold      what all generated events come to: "did rkey" ->
//                         {event, status, cid}, without what was deleted
//   GET  /_test/said      generated events by account: did -> [[rkey, operation, cid, status]]
//   POST /_test/faults    {cutEvery, twice, shuffle, rewindUs, mute, delayMs,
//                         refuse: {status, error}}: from now on, until set anew
//   POST /_test/forget    the log is empty, as after a restart
//   POST /_test/kick      every connection is broken
//   POST /_test/raw       {hex}: these bytes to everybody, frames or not
//   POST /_test/messages  {texts, fragment?}: these messages to everybody
//   POST /_test/junk      {n}: so many messages of no use, of many kinds
//   GET  /_test/asked     the requests for an upgrade: {url, at, agent}
//
// cutEvery: a connection is broken after so many messages; twice: the share of
// events said twice in a row; shuffle: so many events change places, each
// account's in order; rewindUs: replays begin so much earlier than asked for.

import fs from 'node:fs'
import http from 'node:http'
import { parseArgs } from 'node:util'
import { createHash } from 'node:crypto'
import { WebSocketServer } from 'ws'

const text = (value) => ({ type: 'string', default: value })
const { values: opt } = parseArgs({ options: { json: text(), upstream: text(), 'parent-pid': text(), port: text('0'), 'log-size': text('100000') } })
if (opt['parent-pid']) setInterval(() => { try { process.kill(Number(opt['parent-pid']), 0) } catch { process.exit(0) } }, 1000).unref()

const RSVP = 'community.lexicon.calendar.rsvp'
const V2 = 'network.bsky.jetstream.subscribeEvents'
const logSize = Number(opt['log-size'])
const listeners = new Set()
const asked = []
let faults = {}
let log = [] // {seq, us, did, kind, collection, v1, v2}
let seq = 0, newest = 0

// --- the log

function say(did, kind, body, timeUs) {
  seq++
  const us = timeUs ?? Math.max(newest + 1, Date.now() * 1000)
  newest = Math.max(newest, us)
  const time = new Date(Math.floor(us / 1000)).toISOString().replace(/Z$/, `${String(us % 1000).padStart(3, '0')}Z`)
  const entry = { seq, us, did, kind, collection: body.collection }
  entry.v1 = JSON.stringify({ did, time_us: us, cursor: seq, kind, [kind]: body })
  entry.v2 = JSON.stringify({ $type: 'message', payload: { $type: `${V2}#${kind}`, seq, did, time, ...(kind === 'commit' ? body : { [kind]: body }) } })
  log.push(entry)
  if (log.length > logSize * 1.1) log = log.slice(-logSize)
  for (const listener of listeners) listener.wake()
}

// --- what a PDS says

async function follow(service) {
  const { Subscription } = await import('@atproto/xrpc-server')
  const { cborToLexRecord, readCar } = await import('@atproto/repo')
  const { lexToJson } = await import('@atproto/lex-json')
  let cursor = 0
  const messages = new Subscription({ service, method: 'com.atproto.sync.subscribeRepos', getParams: () => ({ cursor }), validate: (value) => value })
  for await (const message of messages) {
    if (typeof message.seq === 'number') cursor = message.seq
    const kind = message.$type?.split('#').pop()
    if (kind === 'identity') say(message.did, kind, { did: message.did, handle: message.handle, seq: message.seq, time: message.time })
    if (kind === 'account') say(message.did, kind, { active: message.active, did: message.did, seq: message.seq, status: message.status, time: message.time })
    if (kind !== 'commit') continue
    const { blocks } = await readCar(message.blocks)
    for (const op of message.ops) {
      const slash = op.path.indexOf('/')
      const commit = { rev: message.rev, operation: op.action, collection: op.path.slice(0, slash), rkey: op.path.slice(slash + 1) }
      if (op.cid) Object.assign(commit, { record: lexToJson(cborToLexRecord(blocks.get(op.cid))), cid: op.cid.toString() })
      say(message.repo, 'commit', commit)
    }
  }
}

// --- what a test makes up

const DIGITS = '234567abcdefghijklmnopqrstuvwxyz'
const tid = (us) => Array.from({ length: 13 }, (_, i) => DIGITS[Number((BigInt(us) << 10n >> BigInt(5 * (12 - i))) & 31n)]).join('')
const BASE32 = 'abcdefghijklmnopqrstuvwxyz234567'
// CIDv1 of dag-cbor with SHA-256: 36 bytes, 288 bits, in 58 digits of 5
function cidOf(word) {
  const n = BigInt(`0x01711220${createHash('sha256').update(word).digest('hex')}`) << 2n
  return `b${Array.from({ length: 58 }, (_, i) => BASE32[Number(n >> BigInt(5 * (57 - i)) & 31n)]).join('')}`
}
// Reproducible, and good enough to choose by
let state = 1
const chance = (n) => { state = (Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x297a2d39) | 0; return ((state >>> 0) % 1000003) % n }

const fold = new Map() // "did rkey" -> {event, status, cid}
const said = new Map() // did -> [[rkey, operation, cid, status]]
let lastRev = Date.now() * 1000

function generateOne({ accounts, events, organiser, prefix = 'gen' }) {
  const n = chance(accounts)
  const did = `did:web:${prefix}${n}.rsvp.example`
  const event = chance(events)
  const rkey = tid(1700000000000000 + n * 1000 + event)
  const key = `${did} ${rkey}`
  const there = fold.has(key)
  const rev = tid(lastRev = Math.max(lastRev + 1, Date.now() * 1000))
  if (!said.has(did)) said.set(did, [])
  if (there && chance(6) === 0) {
    fold.delete(key)
    said.get(did).push([rkey, 'delete', null, null])
    say(did, 'commit', { rev, operation: 'delete', collection: RSVP, rkey })
    return
  }
  const status = ['going', 'interested', 'notgoing'][chance(3)]
  const uri = `at://${organiser}/community.lexicon.calendar.event/3kevent${String(event + 1).padStart(6, '0')}`
  const cid = cidOf(`${key} ${rev}`)
  fold.set(key, { event: event + 1, status, cid })
  said.get(did).push([rkey, there ? 'update' : 'create', cid, status])
  say(did, 'commit', { rev, operation: there ? 'update' : 'create', collection: RSVP, rkey, cid,
    record: { $type: RSVP, subject: { uri, cid: cidOf(uri) }, status: `${RSVP}#${status}`, createdAt: new Date(lastRev / 1000).toISOString() } })
}

async function generate(order) {
  if (order.seed) state = order.seed
  const slices = Math.max(1, Math.floor((order.ms ?? 0) / 10))
  for (let slice = 0, done = 0; slice < slices; slice++) {
    for (; done < order.n * (slice + 1) / slices; done++) generateOne(order)
    if (order.ms) await new Promise((ok) => setTimeout(ok, 10))
  }
  return { said: order.n, seq }
}

// What a broken or hostile server might say instead of an event
function junk(i) {
  const did = `did:web:junk${i}.example`, us = newest || Date.now() * 1000
  const commit = (more) => JSON.stringify({ did, time_us: us, kind: 'commit', commit: { rev: tid(us + i), operation: 'create', collection: RSVP, rkey: tid(us + i), ...more } })
  switch (i % 10) {
    case 0: return 'x'.repeat(i % 500)
    case 1: return '{'.repeat(70 + i % 100)
    case 2: return `${'[{"a":'.repeat(40)}1${'}]'.repeat(40)}`
    case 3: return commit({ cid: 'bafy', record: {} })
    case 4: return commit({ cid: cidOf(did), record: { $type: RSVP, status: 'going', subject: { uri: `at://did:web:nobody.example/community.lexicon.calendar.event/${tid(us + i)}`, cid: cidOf(did) } } })
    case 5: return JSON.stringify({ did: `did:${i}`, time_us: us, kind: 'commit', commit: {} })
    case 6: return JSON.stringify({ did, time_us: us, kind: 'account', account: { did: `${did}.other`, active: false, status: 'deleted' } })
    case 7: return JSON.stringify({ did, time_us: us, kind: 'account', account: { did, active: i % 3 === 0, status: 'takendown' } })
    case 8: return JSON.stringify({ did, time_us: us, kind: 'identity', identity: { did, handle: `h${i}.example` } })
    default: return commit({ operation: 'delete', rkey: '../..' })
  }
}

// --- who listens

const fits = (pattern, collection) => pattern.endsWith('.*') ? collection.startsWith(pattern.slice(0, -1)) : pattern === collection
const refuse = (socket, { status, error }) => {
  const body = JSON.stringify({ error, message: 'as the test wants it' })
  socket.end(`HTTP/1.1 ${status} No\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`)
}

// Where in the log a cursor leads: v1 takes one that is too old for the oldest
function place(cursor, v2) {
  const floor = log[0]?.seq ?? seq + 1
  if (cursor === null) return { next: seq + 1 }
  if (!/^\d+$/.test(cursor)) return { refusal: { status: 400, error: 'InvalidRequest' } }
  if (Number(cursor) < 1e15) {
    if (v2 && Number(cursor) < floor - 1) return { refusal: { status: 400, error: 'CursorTooOld' } }
    return { next: Math.min(Math.max(Number(cursor), floor), seq + 1) }
  }
  const from = Number(cursor) - (faults.rewindUs ?? 0)
  const found = log.find((entry) => entry.us >= from)
  return { next: found?.seq ?? seq + 1, clamped: log.length > 0 && floor > 1 && found === log[0] && from < log[0].us }
}

// A window of the log in another order, in which no account notices it
function shuffled(entries) {
  const byDid = new Map()
  for (const entry of entries) byDid.set(entry.did, [...(byDid.get(entry.did) ?? []), entry])
  const queues = [...byDid.values()], out = []
  while (queues.length) {
    const i = Math.floor(Math.random() * queues.length)
    out.push(queues[i].shift())
    if (!queues[i].length) queues.splice(i, 1)
  }
  return out
}

const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false })
const send = (ws, data, options = {}) => new Promise((ok) => ws.send(data, options, ok))

class Listener {
  constructor(ws, query, v2, next) {
    Object.assign(this, { ws, v2, next, sent: 0, busy: false })
    this.collections = query.getAll(v2 ? 'collections' : 'wantedCollections')
    this.kinds = v2 ? query.getAll('kinds') : []
  }

  wants(entry) {
    if (this.kinds.length && !this.kinds.includes(entry.kind)) return false
    return entry.kind !== 'commit' || !this.collections.length || this.collections.some((p) => fits(p, entry.collection))
  }

  async wake() {
    if (this.busy || faults.mute) return
    this.busy = true
    while (this.ws.readyState === 1 && this.next <= seq && log.length) {
      const at = Math.max(this.next - log[0].seq, 0)
      let entries = log.slice(at, at + (faults.shuffle || 1))
      this.next = entries[entries.length - 1].seq + 1
      if (faults.shuffle) entries = shuffled(entries)
      for (const entry of entries.filter((e) => this.wants(e))) {
        for (let times = Math.random() < (faults.twice ?? 0) ? 2 : 1; times > 0; times--) await send(this.ws, this.v2 ? entry.v2 : entry.v1)
        if (faults.delayMs) await new Promise((ok) => setTimeout(ok, faults.delayMs))
        if (faults.cutEvery && ++this.sent % faults.cutEvery === 0) this.ws.terminate()
      }
    }
    this.busy = false
  }
}

const everybody = (what) => Promise.all([...listeners].map(what))
const body = async (req) => { let all = ''; for await (const part of req) all += part; return all ? JSON.parse(all) : {} }

const orders = {
  '/_test/events': (events) => { for (const e of events) say(e.did, e.kind ?? 'commit', e[e.kind ?? 'commit'], e.time_us); return { seq } },
  '/_test/generate': generate,
  '/_test/fold': () => Object.fromEntries(fold),
  '/_test/said': () => Object.fromEntries(said),
  '/_test/faults': (wanted) => { faults = wanted; for (const l of listeners) l.wake(); return {} },
  '/_test/forget': () => { log = []; return {} },
  '/_test/kick': () => { const n = listeners.size; for (const l of listeners) l.ws.terminate(); return { n } },
  '/_test/raw': async ({ hex }) => { await everybody((l) => new Promise((ok) => l.ws._socket.write(Buffer.from(hex, 'hex'), ok))); return { n: listeners.size } },
  '/_test/messages': async ({ texts, fragment }) => {
    await everybody(async (l) => {
      for (const one of texts) {
        if (!fragment) { await send(l.ws, one); continue }
        for (let at = 0; at < one.length; at += fragment) {
          await send(l.ws, one.slice(at, at + fragment), { fin: at + fragment >= one.length })
          l.ws.ping('between')
        }
      }
    })
    return { n: listeners.size }
  },
  '/_test/junk': async ({ n }) => {
    await everybody(async (l) => {
      for (let i = 0; i < n && l.ws.readyState === 1; i++) {
        if (i % 200 === 199) await send(l.ws, junk(i))
        else l.ws.send(junk(i))
      }
    })
    return { n: listeners.size, alive: [...listeners].filter((l) => l.ws.readyState === 1).length }
  },
  '/_test/asked': () => asked,
  '/_test/listeners': () => ({ n: listeners.size, seq }),
}

const server = http.createServer(async (req, res) => {
  const order = orders[req.url]
  if (!order) return res.writeHead(404).end('{}')
  try { res.end(JSON.stringify(await order(await body(req)))) } catch (e) { res.writeHead(500).end(JSON.stringify({ error: String(e) })) }
})
server.on('upgrade', (req, socket, head) => {
  const url = new URL(req.url, 'http://localhost'), v2 = url.pathname === `/xrpc/${V2}`
  socket.on('error', () => {})
  asked.push({ url: req.url, at: Date.now() / 1000, agent: req.headers['user-agent'] })
  if (!v2 && url.pathname !== '/subscribe') return refuse(socket, { status: 404, error: 'NotFound' })
  if (faults.refuse) return refuse(socket, faults.refuse)
  if (v2 && (url.searchParams.has('wantedCollections') || url.searchParams.has('wantedDids'))) return refuse(socket, { status: 400, error: 'InvalidRequest' })
  const { next, refusal, clamped } = place(url.searchParams.get('cursor'), v2)
  if (refusal) return refuse(socket, refusal)
  sockets.handleUpgrade(req, socket, head, (ws) => {
    const listener = new Listener(ws, url.searchParams, v2, next)
    listeners.add(listener)
    ws.on('close', () => listeners.delete(listener)).on('error', () => {})
    if (v2 && clamped) ws.send(JSON.stringify({ $type: 'message', payload: { $type: `${V2}#info`, name: 'OutdatedCursor', message: `resumed from ${next}` } }))
    listener.wake()
  })
})
await new Promise((ok) => server.listen(Number(opt.port), '127.0.0.1', ok))
const { port } = server.address()
if (opt.upstream) follow(opt.upstream).catch((e) => { console.error(e); process.exit(1) })
const answer = JSON.stringify({ pid: process.pid, port, url: `ws://localhost:${port}/subscribe`, v2: `ws://localhost:${port}/xrpc/${V2}` })
if (opt.json) {
  fs.writeFileSync(`${opt.json}.new`, answer)
  fs.renameSync(`${opt.json}.new`, opt.json)
} else console.log(answer)
process.on('SIGTERM', () => process.exit(0))

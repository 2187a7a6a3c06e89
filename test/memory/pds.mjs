// A server that answers like a PDS, like the PLC directory and like an
// authorization server, fast enough for a hundred thousand jobs, and with every
// kind of failure among its answers.  It believes whatever it is told: neither
// passwords nor tokens nor proofs are looked at.
//
//   run pds.mjs [SHARE [SEED]]   SHARE: of a hundred calls so many go wrong
//
// Prints its port, then waits for lines: "quiet" makes it answer properly from
// then on, "faults" ends that, "count" prints a JSON object of what it did
// so far.  Ends with its stdin.

import crypto from 'node:crypto'
import http from 'node:http'
import readline from 'node:readline'

const share = Number(process.argv[2] ?? 8) / 100
let seed = Number(process.argv[3] ?? 1)
let quiet = false
const done = {}

// mulberry32: the same faults for the same seed, as far as calls come in the
// same order
function random() {
  seed = (seed + 0x6d2b79f5) | 0
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
}

// --- CIDs, as the extension computes them

function head(major, n) {
  if (n < 24) return Buffer.from([(major << 5) | n])
  if (n < 0x100) return Buffer.from([(major << 5) | 24, n])
  const long = Buffer.alloc(5)
  long[0] = (major << 5) | 26
  long.writeUInt32BE(n, 1)
  return long
}

function cbor(value) {
  if (value === null) return Buffer.from([0xf6])
  if (typeof value === 'boolean') return Buffer.from([value ? 0xf5 : 0xf4])
  if (typeof value === 'number') return value < 0 ? head(1, -1 - value) : head(0, value)
  if (typeof value === 'string') {
    const text = Buffer.from(value)
    return Buffer.concat([head(3, text.length), text])
  }
  if (Array.isArray(value)) return Buffer.concat([head(4, value.length), ...value.map(cbor)])
  const names = Object.keys(value).map((name) => Buffer.from(name)).sort((a, b) => a.length - b.length || a.compare(b))
  return Buffer.concat([head(5, names.length), ...names.flatMap((name) => [head(3, name.length), name, cbor(value[name])])])
}

function cidOf(bytes) {
  const cid = Buffer.concat([Buffer.from([1, 0x71, 0x12, 0x20]), crypto.createHash('sha256').update(bytes).digest()])
  let bits = 0
  let held = 0
  let text = 'b'
  for (const byte of cid) {
    held = ((held << 8) | byte) & 0xffff
    for (bits += 8; bits >= 5; bits -= 5) text += 'abcdefghijklmnopqrstuvwxyz234567'[(held >> (bits - 5)) & 31]
  }
  return bits ? text + 'abcdefghijklmnopqrstuvwxyz234567'[(held << (5 - bits)) & 31] : text
}

// --- repositories

const collection = 'community.lexicon.calendar.rsvp'
const repos = new Map()
let commits = 0
let revision = 0n

function rev() {
  revision = revision === 0n ? BigInt(Date.now()) * 1024000n : revision + 1024n
  let text = ''
  for (let at = 60n; at >= 0n; at -= 5n) text += '234567abcdefghijklmnopqrstuvwxyz'[Number((revision >> at) & 31n)]
  return text
}

const commit = () => ({ cid: cidOf(Buffer.from(`commit ${commits++}`)), rev: rev() })

function repo(did) {
  if (!repos.has(did)) repos.set(did, { records: new Map(), commit: commit() })
  return repos.get(did)
}

const uri = (did, rkey) => `at://${did}/${collection}/${rkey}`
const refusal = (error, message, status = 400, headers = {}) => ({ status, headers, body: { error, message } })

function write(args, remove) {
  const of = repo(args.repo)
  const old = of.records.get(args.rkey)
  if (args.swapCommit && args.swapCommit !== of.commit.cid) return refusal('InvalidSwap', `Commit was at ${of.commit.cid}`)
  if (args.swapRecord !== undefined && args.swapRecord !== (old?.cid ?? null)) return refusal('InvalidSwap', `Record was at ${old?.cid ?? null}`)
  if (remove && !old) return { body: {} }
  if (remove) of.records.delete(args.rkey)
  else of.records.set(args.rkey, { cid: cidOf(cbor(args.record)), value: args.record })
  of.commit = commit()
  if (remove) return { body: { commit: of.commit } }
  return { body: { uri: uri(args.repo, args.rkey), cid: of.records.get(args.rkey).cid, commit: of.commit, validationStatus: 'valid' } }
}

function list({ repo: did, cursor, limit }) {
  const all = [...repo(did).records].filter(([rkey]) => !cursor || rkey > cursor).sort(([a], [b]) => (a < b ? -1 : 1))
  const page = all.slice(0, Number(limit))
  return {
    body: {
      records: page.map(([rkey, { cid, value }]) => ({ uri: uri(did, rkey), cid, value })),
      ...(page.length < all.length && { cursor: page.at(-1)[0] }),
    },
  }
}

// --- who may write: anybody

let tokens = 0
const token = (kind) => `${kind}.${tokens++}.${'x'.repeat(300)}`
const session = (did) => ({ body: { did, handle: 'x.test', active: true, accessJwt: token('access'), refreshJwt: `${did}.${token('refresh')}` } })
const refreshed = (form) => {
  const did = form.get('refresh_token').split('.')[0]
  return { body: { sub: did, access_token: token('access'), refresh_token: `${did}.${token('refresh')}`, token_type: 'DPoP', expires_in: 3600, scope: `atproto repo:${collection}` } }
}

function answer(origin, call, url, text, auth) {
  const query = Object.fromEntries(url.searchParams)
  switch (call) {
    case 'createSession': return session(JSON.parse(text).identifier)
    case 'refreshSession': return session(auth.replace(/^Bearer /, '').split('.')[0])
    case 'getLatestCommit': return { body: repo(query.did).commit }
    case 'listRecords': return list(query)
    case 'getRecord': {
      if (query.collection !== collection) return { body: { uri: `at://${query.repo}/${query.collection}/${query.rkey}`, cid: cidOf(Buffer.from(query.rkey)), value: { name: 'A meeting' } } }
      const found = repo(query.repo).records.get(query.rkey)
      return found ? { body: { uri: uri(query.repo, query.rkey), ...found } } : refusal('RecordNotFound', 'Could not locate record')
    }
    case 'putRecord': return write(JSON.parse(text), false)
    case 'deleteRecord': return write(JSON.parse(text), true)
    case 'token': return refreshed(new URLSearchParams(text))
    case 'oauth-protected-resource': return { body: { resource: origin, authorization_servers: [origin] } }
    case 'oauth-authorization-server': return { body: { issuer: origin, token_endpoint: `${origin}/oauth/token` } }
    case 'document': return { body: { id: decodeURIComponent(url.pathname.slice(1)), service: [{ id: '#atproto_pds', type: 'AtprotoPersonalDataServer', serviceEndpoint: origin }] } }
    default: return { body: {} }
  }
}

// --- what goes wrong: how often among the failures, on which calls, how

const writes = /^(put|delete)Record$/
const mended = /^(put|delete|get)Record$|^listRecords$|^getLatestCommit$/
const any = /./
const instead = (made) => ({ made })
const faults = [
  [12, writes, 'expired_token', () => instead(refusal('ExpiredToken', 'Token has expired'))],
  [8, writes, 'invalid_token', () => instead(refusal('invalid_token', '"exp" claim timestamp check failed', 401, { 'www-authenticate': 'DPoP error="invalid_token"' }))],
  [12, writes, 'use_dpop_nonce', () => instead(refusal('use_dpop_nonce', 'Resource server requires nonce in DPoP proof', 401, { 'www-authenticate': 'DPoP error="use_dpop_nonce"' }))],
  [12, writes, 'invalid_swap', () => instead(refusal('InvalidSwap', `Commit was at ${cidOf(Buffer.from('other'))}`))],
  [6, writes, 'refused', () => instead(refusal('InvalidRequest', 'Record is not to our liking'))],
  [3, writes, 'rate_limited', () => instead(refusal('RateLimitExceeded', 'Rate Limit Exceeded', 429, { 'retry-after': '1' }))],
  [1, /^createSession$/, 'wrong_password', () => instead(refusal('AuthenticationRequired', 'Invalid identifier or password', 401))],
  [1, /^token$/, 'invalid_grant', () => instead(refusal('invalid_grant', 'Invalid refresh token'))],
  [2, /^token$/, 'token_nonce', () => instead(refusal('use_dpop_nonce', 'Authorization server requires nonce in DPoP proof'))],
  [10, any, 'broken_server', () => instead(refusal('InternalServerError', 'Internal Server Error', 500))],
  [3, any, 'bad_gateway', () => instead({ status: 502, raw: '<html><body>502 Bad Gateway</body></html>' })],
  [3, any, 'redirect', () => instead({ status: 302, headers: { location: 'http://127.0.0.1:1/' }, raw: '' })],
  [4, mended, 'no_json', (made) => ({ made: { ...made, raw: '<html><body>Sign in to this network</body></html>' } })],
  [4, mended, 'odd_json', (made) => ({ made: { ...made, raw: '{"cid": 7, "records": [{"uri": null}], "value": [1, {"a": "\\u0000"}], "commit": {"cid": "b"}}' } })],
  [4, any, 'too_large', (made) => ({ made: { ...made, raw: `{"x": "${'y'.repeat(5 << 20)}"}` }, rare: true })],
  [4, mended, 'truncated', (made) => ({ made, cut: true })],
  [4, any, 'reset_before', () => ({ reset: true })],
  [6, writes, 'reset_after', (made) => ({ made, reset: true })],
  [2, mended, 'slow', (made) => ({ made, wait: 300 })],
  [1, mended, 'timeout', (made) => ({ made, never: true })],
]
const weight = faults.reduce((sum, [n]) => sum + n, 0)

function chooseFault(call) {
  if (quiet || random() >= share) return null
  let at = random() * weight
  const fault = faults.find(([n]) => (at -= n) < 0)
  // Megabytes are dear: one in five of them
  return fault[1].test(call) && (fault[2] !== 'too_large' || random() < 0.2) ? fault : null
}

function send(res, made, how) {
  const text = made.raw ?? JSON.stringify(made.body)
  const length = Buffer.byteLength(text)
  res.writeHead(made.status ?? 200, {
    'content-type': 'application/json',
    'dpop-nonce': `nonce-${Math.floor(Date.now() / 1000)}`,
    'ratelimit-limit': '100000000',
    'ratelimit-remaining': '99999999',
    'ratelimit-reset': String(Math.floor(Date.now() / 1000) + 3600),
    'ratelimit-policy': '100000000;w=3600',
    'content-length': how.cut ? length + 100 : length,
    ...made.headers,
  })
  if (!how.cut) return res.end(text)
  return res.write(text, () => res.socket.destroy())
}

function serve(req, res, text) {
  const origin = `http://${req.headers.host}`
  const url = new URL(req.url, origin)
  const call = url.pathname.startsWith('/did:') || url.pathname.startsWith('/did%3A') ? 'document' : url.pathname.split(/[./]/).at(-1)
  const fault = chooseFault(call)
  const what = fault?.[2] ?? call
  done[what] = (done[what] ?? 0) + 1
  // What is answered instead was not done; what goes wrong later was.
  let made
  if (!fault || fault[3].length) made = answer(origin, call, url, text, req.headers.authorization ?? '')
  const how = fault ? fault[3](made) : { made }
  if (how.never) return undefined
  if (how.reset) return res.socket.destroy()
  if (how.wait) return setTimeout(() => send(res, how.made, how), how.wait)
  return send(res, how.made, how)
}

const server = http.createServer((req, res) => {
  const parts = []
  req.on('data', (part) => parts.push(part)).on('end', () => serve(req, res, Buffer.concat(parts).toString()))
  req.on('error', () => {})
  res.on('error', () => {})
})
server.keepAliveTimeout = 20000
server.listen(0, '127.0.0.1', () => process.stdout.write(`${server.address().port}\n`))

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  if (line === 'quiet' || line === 'faults') quiet = line === 'quiet'
  else if (line === 'count') process.stdout.write(`${JSON.stringify(done)}\n`)
}).on('close', () => process.exit(0))

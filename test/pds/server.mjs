// The network of the tests, in one process on the loopback interface: a PLC
// directory in memory, the reference Bluesky PDS, and accounts on it.
//
//   run server.mjs --json STATE.json [option ...]       (boot does that)
//
//   --accounts N           accounts to create: user1.test, user2.test ... (3)
//   --name PREFIX          user1 becomes PREFIX1 (two servers, one PLC)
//   --password PREFIX      PREFIX + handle's first label (hunter2-)
//   --host ADDRESS         where to listen (127.0.0.1)
//   --pds-port, --plc-port N    0, the default, takes a free one
//   --plc URL              use that PLC (another server's) and start none
//   --data DIR             keep data, PLC and accounts here over restarts;
//                          otherwise a temporary folder, removed at the end
//   --rate-limits          the real PDS's limits
//   --access-ttl, --refresh-ttl S     session tokens' life (2 h, 90 days)
//   --oauth-token-ttl S    OAuth access token's life (1 h)
//   --dpop-rotation-ms MS  DPoP nonce's rotation (60 s; it lives for three)
//   --oauth-client         know a confidential client (private_key_jwt)
//   --log FILE             append every request, also what was under way when
//                          this process is killed; see keepLogIn()
//   --faults               accepted for readability; faults.mjs is always on
//   --parent-pid N         end when that process has ended
//
// Every PDS_* environment variable goes before what is set below.
// SIGTERM and SIGINT end it in good order.

import { readFileSync } from 'node:fs'
import fs from 'node:fs/promises'
import http from 'node:http'
import os from 'node:os'
import path from 'node:path'
import { randomBytes } from 'node:crypto'
import { parseArgs } from 'node:util'
import { Bench } from './faults.mjs'

const text = (value) => ({ type: 'string', default: value })
const { values: opt } = parseArgs({
  options: {
    accounts: text('3'), name: text('user'), password: text('hunter2-'), host: text('127.0.0.1'),
    'pds-port': text('0'), 'plc-port': text('0'), plc: text(), data: text(), json: text(), log: text(),
    'access-ttl': text(), 'refresh-ttl': text(), 'oauth-token-ttl': text(), 'dpop-rotation-ms': text(),
    'rate-limits': { type: 'boolean', default: false }, 'oauth-client': { type: 'boolean', default: false },
    faults: { type: 'boolean', default: true }, 'parent-pid': text(),
  },
})
const began = Date.now()
let stopping = false

const bench = new Bench()

// A process that only waits to be reaped is gone, too.
const gone = (pid) => {
  try {
    process.kill(pid, 0)
    return /^State:\s*Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch (e) {
    return e.code === 'ESRCH' || e.code === 'ENOENT'
  }
}

// Whatever happens below, this process must not outlive its parent.
if (opt['parent-pid']) {
  const parent = Number(opt['parent-pid'])
  setInterval(() => {
    if (gone(parent)) stop().catch(() => process.exit(1))
  }, 1000).unref()
}

process.env.LOG_ENABLED ??= 'false'
process.env.PDS_VERSION ??= 'test'
const { PDS, readEnv } = await import('@atproto/pds')
const { default: plcDefault, ...plcNamed } = await import('@did-plc/server')
const { PlcServer, Database: PlcDatabase } = plcDefault?.PlcServer ? plcDefault : plcNamed

const dir = opt.data ? path.resolve(opt.data) : await fs.mkdtemp(path.join(os.tmpdir(), 'rsvp-sync-pds-'))
await fs.mkdir(path.join(dir, 'blobs'), { recursive: true })
const kept = async (name, make) => {
  const file = path.join(dir, name)
  try { return JSON.parse(await fs.readFile(file, 'utf8')) } catch { /* first start */ }
  const value = make()
  await fs.writeFile(file, JSON.stringify(value))
  return value
}

// Takes the port now, so that nobody else gets it before the app listens.
// (Both servers would listen on every interface and on their own.)
const reserve = async (port) => {
  const server = http.createServer()
  await new Promise((ok, no) => server.once('error', no).listen(Number(port), opt.host, ok))
  return {
    port: server.address().port,
    // Its own listen() also sees to WebSockets; only the server is ours.
    hand(to) {
      const listen = to.listen
      to.listen = (...where) => {
        const create = http.createServer
        http.createServer = (app) => ({
          listen() {
            server.on('request', app)
            setImmediate(() => server.emit('listening'))
            return server
          },
        })
        try { return listen.apply(to, where) } finally { http.createServer = create }
      }
    },
    server,
  }
}

// --- the directory
let plc, plcUrl = opt.plc?.replace(/\/$/, '').replace('127.0.0.1', 'localhost')
const plcOps = path.join(dir, 'plc.json')
const plcDb = PlcDatabase.mock()
if (!plcUrl) {
  const seat = await reserve(opt['plc-port'])
  const saved = await fs.readFile(plcOps, 'utf8').then(JSON.parse, () => ({}))
  for (const [did, ops] of Object.entries(saved)) for (const op of ops) await plcDb.validateAndAddOp(did, op)
  plc = PlcServer.create({ db: plcDb, port: seat.port })
  seat.hand(plc.app)
  await plc.start()
  bench.observe(seat.server, 'plc')
  plcUrl = `http://localhost:${seat.port}` // by name: the PDS's resolver refuses addresses
}
const savePlc = () => opt.data && plc && fs.writeFile(plcOps,
  JSON.stringify(Object.fromEntries(Object.entries(plcDb.contents).map(([did, ops]) => [did, ops.map((o) => o.operation)]))))

// --- the PDS
const seat = await reserve(opt['pds-port'])
const secrets = await kept('secrets.json', () => ({ dpop: randomBytes(32).toString('hex'), rotation: randomBytes(32).toString('hex') }))
const fromEnv = Object.fromEntries(Object.entries(readEnv()).filter(([, v]) => v !== undefined && !(Array.isArray(v) && v.length === 0)))
const env = {
  devMode: true, // http instead of https; answers are validated
  port: seat.port,
  hostname: 'localhost', // the one name that gives an http:// public URL
  dataDirectory: dir,
  blobstoreDiskLocation: path.join(dir, 'blobs'),
  adminPassword: 'admin-pass',
  jwtSecret: 'jwt-secret',
  dpopSecret: secrets.dpop,
  plcRotationKeyK256PrivateKeyHex: secrets.rotation,
  didPlcUrl: plcUrl,
  enableDidDocWithSession: true, // as bsky.social does
  serviceHandleDomains: ['.test'],
  inviteRequired: false,
  disableSsrfProtection: true,
  serviceName: 'Test PDS',
  rateLimitsEnabled: opt['rate-limits'],
  ...fromEnv,
}
const pds = await PDS.fromEnv(env)
seat.hand(pds.app)

// The PDS has its tokens' life in its code: sign again what it hands out.
if (opt['access-ttl'] || opt['refresh-ttl']) {
  const jose = await import('jose')
  const key = new TextEncoder().encode(env.jwtSecret)
  const shorten = (token, seconds) => {
    if (!seconds || !token) return token
    const claims = jose.decodeJwt(token)
    claims.exp = claims.iat + Number(seconds)
    return new jose.SignJWT(claims).setProtectedHeader(jose.decodeProtectedHeader(token)).sign(key)
  }
  const manager = pds.ctx.accountManager
  for (const method of ['createSession', 'createAccountAndSession', 'rotateRefreshToken']) {
    const original = manager[method].bind(manager)
    manager[method] = async (...args) => {
      const r = await original(...args)
      return r && { ...r, accessJwt: await shorten(r.accessJwt, opt['access-ttl']), refreshJwt: await shorten(r.refreshJwt, opt['refresh-ttl']) }
    }
  }
}

// What the OAuth provider has no setting for
const provider = pds.ctx.oauthProvider
if (opt['oauth-token-ttl']) {
  provider.tokenManager.tokenMaxAge = provider.requestManager.tokenMaxAge = Number(opt['oauth-token-ttl']) * 1000
}
if (opt['dpop-rotation-ms']) {
  const Nonce = provider.dpopManager.dpopNonce.constructor
  provider.dpopManager.dpopNonce = new Nonce(env.dpopSecret, Number(opt['dpop-rotation-ms']))
}
let oauthClient
if (opt['oauth-client']) {
  // A confidential client's id is an https URL which the PDS would fetch:
  // its document is answered from memory.
  const { generateKeyPairSync } = await import('node:crypto')
  const { oauthClientMetadataSchema } = await import('@atproto/oauth-types')
  const secret = await kept('oauth-client.json', () => ({ ...generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' }), kid: 'key-1', alg: 'ES256' }))
  const { d: _secretPart, ...open } = secret
  const client_id = 'https://rsvp.example.com/oauth-client-metadata.json'
  const metadata = oauthClientMetadataSchema.parse({
    client_id,
    client_name: 'RSVP writer',
    client_uri: 'https://rsvp.example.com',
    application_type: 'web',
    redirect_uris: ['https://rsvp.example.com/callback'],
    scope: 'atproto repo:community.lexicon.calendar.rsvp repo:community.lexicon.calendar.event transition:generic',
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    dpop_bound_access_tokens: true,
    token_endpoint_auth_method: 'private_key_jwt',
    token_endpoint_auth_signing_alg: 'ES256',
    jwks: { keys: [open] },
  })
  const clients = provider.clientManager
  const original = clients.metadataGetter.get.bind(clients.metadataGetter)
  clients.metadataGetter.get = async (uri, ...rest) => (uri === client_id ? clients.validateClientMetadata(uri, metadata) : original(uri, ...rest))
  oauthClient = { client_id, redirect_uri: metadata.redirect_uris[0], scope: metadata.scope, private_jwk: secret }
}

await pds.start()
bench.observe(seat.server, 'pds')
const control = await bench.control(opt.host)
const bootMs = Date.now() - began

// --- accounts
const publicUrl = pds.ctx.cfg.service.publicUrl
const accountsFrom = Date.now()
const accounts = await kept('accounts.json', () => [])
const createAccount = async (i) => {
  const name = `${opt.name}${i + 1}`
  const password = opt.password + name
  const headers = { 'content-type': 'application/json' }
  if (env.rateLimitBypassKey) headers['x-ratelimit-bypass'] = env.rateLimitBypassKey
  const r = await fetch(`http://${opt.host}:${seat.port}/xrpc/com.atproto.server.createAccount`,
    { method: 'POST', headers, body: JSON.stringify({ handle: `${name}.test`, email: `${name}@example.org`, password }) })
  const j = await r.json()
  if (!r.ok) throw new Error(`createAccount ${name}: ${r.status} ${JSON.stringify(j)}`)
  accounts[i] = { did: j.did, handle: j.handle, password, accessJwt: j.accessJwt, refreshJwt: j.refreshJwt }
}
const wanted = Number(opt.accounts)
let next = accounts.length
await Promise.all(Array.from({ length: 4 }, async () => { while (next < wanted) await createAccount(next++) }))
if (opt.data) await fs.writeFile(path.join(dir, 'accounts.json'), JSON.stringify(accounts))
await savePlc()
bench.forgetLog()
if (opt.log) bench.keepLogIn(opt.log)

const state = {
  pid: process.pid,
  pds: publicUrl, publicUrl, port: seat.port, serviceDid: pds.ctx.cfg.service.did,
  plc: plcUrl, control: `http://${opt.host}:${control.address().port}`,
  insecureHosts: [seat.port, new URL(plcUrl).port].flatMap((p) => [`localhost:${p}`, `127.0.0.1:${p}`]).join(','),
  dataDir: dir, jwtSecret: env.jwtSecret, adminPassword: env.adminPassword, rateLimits: Boolean(env.rateLimitsEnabled),
  oauthClient, node: process.version, bootMs, accountsMs: Date.now() - accountsFrom, accounts,
}
if (opt.json) {
  await fs.writeFile(`${opt.json}.new`, JSON.stringify(state, null, 1) + '\n')
  await fs.rename(`${opt.json}.new`, opt.json)
}
console.log(JSON.stringify({ ...state, accounts: accounts.length }))

async function stop() {
  if (stopping) return
  stopping = true
  setTimeout(() => process.exit(1), 5000).unref() // never hang on the way out
  bench.release()
  await savePlc()
  await pds.destroy().catch(() => {})
  await plc?.destroy().catch(() => {})
  if (!opt.data) await fs.rm(dir, { recursive: true, force: true })
  process.exit(0)
}
process.on('SIGTERM', stop)
process.on('SIGINT', stop)

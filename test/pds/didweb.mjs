// A person of did:web: a host with the document, and an account on a PDS.
//
//   run didweb.mjs STATE.json --json FILE --parent-pid N
//
// The host listens on localhost, the DID is did:web:localhost%3aPORT.  FILE
// gets {pid, did, handle, password, port}.  GET /_test/count says how often the
// document was asked for.  The document claims the handle alice.localhost, and
// GET /.well-known/atproto-did names the DID, or what /_test/name/X says.

import fs from 'node:fs'
import http from 'node:http'
import { parseArgs } from 'node:util'
import { P256Keypair } from '@atproto/crypto'
import { createServiceJwt } from '@atproto/xrpc-server'
import { OWN_AGENT } from './faults.mjs'

const { values: opt, positionals } = parseArgs({ allowPositionals: true, options: { json: { type: 'string' }, 'parent-pid': { type: 'string' } } })
const state = JSON.parse(fs.readFileSync(positionals[0], 'utf8'))
if (opt['parent-pid']) setInterval(() => { try { process.kill(Number(opt['parent-pid']), 0) } catch { process.exit(0) } }, 1000).unref()

const keypair = await P256Keypair.create()
let did, document, named, count = 0
const server = http.createServer((req, res) => {
  if (req.url === '/_test/count') return res.end(String(count))
  if (req.url.startsWith('/_test/name/')) return res.end(named = decodeURIComponent(req.url.slice('/_test/name/'.length)))
  if (req.url === '/.well-known/atproto-did') return res.end(`${named ?? did}\n`)
  if (req.url !== '/.well-known/did.json') return res.writeHead(404).end()
  if (req.headers['user-agent']?.startsWith('rsvp_sync/')) count++
  res.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(document))
})
await new Promise((ok) => server.listen(0, '127.0.0.1', ok))
const { port } = server.address()
did = `did:web:localhost%3a${port}` // createSession lower-cases what it looks for
const handle = `web${port}.test`
const password = `hunter2-web${port}`
const describe = (key) => ({
  '@context': ['https://www.w3.org/ns/did/v1', 'https://w3id.org/security/multikey/v1'],
  id: did,
  alsoKnownAs: ['at://alice.localhost'], // a name that libcurl knows
  verificationMethod: [{ id: `${did}#atproto`, type: 'Multikey', controller: did, publicKeyMultibase: key.slice('did:key:'.length) }],
  service: [{ id: '#atproto_pds', type: 'AtprotoPersonalDataServer', serviceEndpoint: state.publicUrl }],
})
document = describe(keypair.did())

async function call(method, nsid, { body, token } = {}) {
  const headers = { 'user-agent': OWN_AGENT, ...(token && { authorization: `Bearer ${token}` }), ...(body && { 'content-type': 'application/json' }) }
  const r = await fetch(`http://127.0.0.1:${state.port}/xrpc/${nsid}`, { method, headers, body: body && JSON.stringify(body) })
  if (!r.ok) throw new Error(`${nsid}: ${r.status} ${await r.text()}`)
  return r.headers.get('content-type')?.startsWith('application/json') ? r.json() : undefined
}
const token = await createServiceJwt({ iss: did, aud: state.serviceDid, lxm: 'com.atproto.server.createAccount', keypair })
const account = await call('POST', 'com.atproto.server.createAccount', { token, body: { did, handle, email: `${handle}@example.org`, password } })
const wanted = await call('GET', 'com.atproto.identity.getRecommendedDidCredentials', { token: account.accessJwt })
document = describe(wanted.verificationMethods.atproto)
await call('POST', 'com.atproto.server.activateAccount', { token: account.accessJwt })

fs.writeFileSync(`${opt.json}.new`, JSON.stringify({ pid: process.pid, did, handle, password, port }))
fs.renameSync(`${opt.json}.new`, opt.json)
process.on('SIGTERM', () => process.exit(0))

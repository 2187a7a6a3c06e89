// Moves an account from one PDS to another, as its user's client would.
//
//   run migrate.mjs copy OLD.json NEW.json ACCOUNT [PASSWORD]
//   run migrate.mjs move OLD.json NEW.json ACCOUNT [PASSWORD]
//   run migrate.mjs deactivate OLD.json NEW.json ACCOUNT
//   run migrate.mjs tombstone OLD.json NEW.json ACCOUNT
//
// copy makes the account on the new PDS, with its repository; move changes the
// DID document and activates the account there.  The old one goes on taking
// writes until it is deactivated.  PASSWORD: on the new PDS, if it is another.
// The DID document is changed by the old PDS's rotation key, which would ask
// the user by e-mail.

import fs from 'node:fs'
import path from 'node:path'
import plc from '@did-plc/lib'
import { Secp256k1Keypair } from '@atproto/crypto'
import { OWN_AGENT } from './faults.mjs'

const [command, oldFile, newFile, index, otherPassword] = process.argv.slice(2)
const [from, to] = [oldFile, newFile].map((file) => JSON.parse(fs.readFileSync(file, 'utf8')))
const account = from.accounts[Number(index)]
const password = otherPassword ?? account.password

async function call(state, method, nsid, { query, body, token, type = 'application/json' } = {}) {
  const headers = { 'user-agent': OWN_AGENT }
  if (token) headers.authorization = `Bearer ${token}`
  if (body !== undefined) headers['content-type'] = type
  const r = await fetch(`http://127.0.0.1:${state.port}/xrpc/${nsid}${query ? `?${new URLSearchParams(query)}` : ''}`,
    { method, headers, body: body === undefined ? undefined : type === 'application/json' ? JSON.stringify(body) : body })
  if (!r.ok) throw new Error(`${nsid}: ${r.status} ${await r.text()}`)
  return r.headers.get('content-type')?.startsWith('application/json') ? r.json() : Buffer.from(await r.arrayBuffer())
}
const login = async (state, secret) => (await call(state, 'POST', 'com.atproto.server.createSession', { body: { identifier: account.did, password: secret } })).accessJwt
const rotationKey = () => Secp256k1Keypair.import(JSON.parse(fs.readFileSync(path.join(from.dataDir, 'secrets.json'), 'utf8')).rotation)
const directory = new plc.Client(from.plc)

const commands = {
  async copy() {
    const there = await login(from, account.password)
    const { token } = await call(from, 'GET', 'com.atproto.server.getServiceAuth',
      { token: there, query: { aud: to.serviceDid, lxm: 'com.atproto.server.createAccount' } })
    const here = await call(to, 'POST', 'com.atproto.server.createAccount',
      { token, body: { did: account.did, handle: account.handle, email: `${account.handle}@example.org`, password } })
    const repo = await call(from, 'GET', 'com.atproto.sync.getRepo', { query: { did: account.did } })
    await call(to, 'POST', 'com.atproto.repo.importRepo', { token: here.accessJwt, body: repo, type: 'application/vnd.ipld.car' })
  },
  async move() {
    const token = await login(to, password)
    const wanted = await call(to, 'GET', 'com.atproto.identity.getRecommendedDidCredentials', { token })
    await directory.updateData(account.did, await rotationKey(), (last) => ({ ...last, ...wanted,
      rotationKeys: [...new Set([...wanted.rotationKeys, ...last.rotationKeys])] }))
    await call(to, 'POST', 'com.atproto.server.activateAccount', { token })
  },
  async deactivate() {
    await call(from, 'POST', 'com.atproto.server.deactivateAccount', { token: await login(from, account.password), body: {} })
  },
  async tombstone() {
    await directory.tombstone(account.did, await rotationKey())
  },
}
try {
  await commands[command]()
  console.log(JSON.stringify({ did: account.did, pds: to.publicUrl, password }))
} catch (e) {
  console.error(`migrate.mjs ${command}: ${e.response?.data?.message ?? e.message}`)
  process.exit(1)
}

// A user who signs in by OAuth, and the application he signs in to: the real
// client library, with a browser made of a few requests.
//
//   run oauth.mjs login STATE.json ACCOUNT [option ...]
//       -> {client_id, did, session}: what the library's session store got
//          --confidential     by the client that --oauth-client registered
//          --scope SCOPES
//   run oauth.mjs revoke STATE.json      a session from stdin is revoked
//
// For other scripts: client(state, options) makes the library's client, signIn
// takes the URL a user is sent to and returns the parameters he comes back
// with.

import fs from 'node:fs'
import http from 'node:http'
import { parseArgs } from 'node:util'
import { pathToFileURL } from 'node:url'
import { JoseKey, NodeOAuthClient, requestLocalLock } from '@atproto/oauth-client-node'

export const SCOPE = 'atproto repo:community.lexicon.calendar.rsvp'
const REDIRECT = 'http://127.0.0.1:8123/callback'

const memory = (map = new Map()) => ({
  map,
  get: (key) => map.get(key),
  set: (key, value) => void map.set(key, value),
  del: (key) => void map.delete(key),
})

// The metadata of the client and, if it is confidential, its keys.
export async function identity(state, { confidential, scope }) {
  const common = {
    scope,
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    dpop_bound_access_tokens: true,
  }
  if (!confidential) {
    return {
      clientMetadata: {
        ...common,
        client_id: `http://localhost?${new URLSearchParams({ redirect_uri: REDIRECT, scope })}`,
        redirect_uris: [REDIRECT],
        application_type: 'native',
        token_endpoint_auth_method: 'none',
      },
    }
  }
  const { client_id, redirect_uri, private_jwk, scope: all } = state.oauthClient
  const { d: _secret, ...open } = private_jwk
  return {
    clientMetadata: {
      ...common,
      scope: all,
      client_id,
      client_uri: new URL(client_id).origin,
      redirect_uris: [redirect_uri],
      application_type: 'web',
      token_endpoint_auth_method: 'private_key_jwt',
      token_endpoint_auth_signing_alg: 'ES256',
      jwks: { keys: [open] },
    },
    keyset: [await JoseKey.fromJWK(private_jwk)],
  }
}

export async function client(state, { confidential = false, scope = SCOPE, sessionStore = memory(), requestLock = requestLocalLock } = {}) {
  return new NodeOAuthClient({
    ...(await identity(state, { confidential, scope })),
    stateStore: memory(),
    sessionStore,
    requestLock,
    handleResolver: state.publicUrl,
    plcDirectoryUrl: state.plc,
    allowHttp: true,
    fetch: globalThis.fetch,
  })
}

// fetch() does not let anybody set Sec-Fetch-*.
const request = (method, url, headers, body) => new Promise((ok, no) => {
  const req = http.request(url, { method, headers: { 'user-agent': 'rsvp-sync-test-browser', ...headers } }, (res) => {
    let text = ''
    res.on('data', (part) => { text += part }).on('end', () => ok({ status: res.statusCode, headers: res.headers, text }))
  })
  req.on('error', no)
  req.end(body)
})

// What the user does in his browser: signs in, consents, is sent back.
export async function signIn(url, account, scope = SCOPE) {
  const jar = new Map()
  const cookie = () => [...jar].map(([name, value]) => `${name}=${value}`).join('; ')
  const keep = ({ headers }) => (headers['set-cookie'] ?? []).forEach((line) => {
    const [, name, value] = /^([^=]+)=([^;]*)/.exec(line)
    jar.set(name, value)
  })
  const page = await request('GET', url, { 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'document', 'sec-fetch-site': 'none' })
  keep(page)
  const issuer = new URL(url).origin
  const call = async (endpoint, value, bearer) => {
    const body = JSON.stringify(value)
    const answer = await request('POST', `${issuer}/@atproto/oauth-provider/~api${endpoint}`, {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(body),
      'sec-fetch-mode': 'same-origin',
      'sec-fetch-site': 'same-origin',
      origin: issuer,
      referer: String(url),
      cookie: cookie(),
      'x-csrf-token': jar.get('csrf-token'),
      ...(bearer && { authorization: `Bearer ${bearer}` }),
    }, body)
    keep(answer)
    if (answer.status !== 200) throw new Error(`${endpoint}: ${answer.status} ${answer.text}`)
    return JSON.parse(answer.text)
  }
  const { ephemeralToken } = await call('/sign-in', { username: account.handle, password: account.password, locale: 'en', remember: false })
  const consent = await call('/consent', { did: account.did, scope }, ephemeralToken)
  const back = await request('GET', consent.url, { 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'document', 'sec-fetch-site': 'same-origin', referer: String(url), cookie: cookie() })
  return new URL(back.headers.location).searchParams
}

// A session minted as an application would have it.
export async function login(state, index, options = {}) {
  const account = state.accounts[Number(index)]
  const scope = options.scope ?? SCOPE
  const sessionStore = memory()
  const oauth = await client(state, { ...options, sessionStore })
  const url = await oauth.authorize(account.handle, { scope })
  await oauth.callback(await signIn(url, account, scope))
  return { client_id: oauth.clientMetadata.client_id, did: account.did, session: sessionStore.map.get(account.did) }
}

async function main([command, stateFile, ...rest]) {
  const state = JSON.parse(fs.readFileSync(stateFile, 'utf8'))
  const { values, positionals } = parseArgs({
    args: rest,
    allowPositionals: true,
    options: { confidential: { type: 'boolean' }, scope: { type: 'string' } },
  })
  if (command === 'login') return login(state, positionals[0], values)
  if (command === 'revoke') {
    const session = JSON.parse(fs.readFileSync(0, 'utf8'))
    const did = session.tokenSet.sub
    const sessionStore = memory(new Map([[did, session]]))
    const oauth = await client(state, { ...values, scope: session.tokenSet.scope, sessionStore })
    await oauth.revoke(did)
    return { revoked: did }
  }
  throw new Error('usage: oauth.mjs login|revoke STATE.json ... (see the head of the file)')
}

// The library leaves timers behind that would keep the process for seconds.
if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const answer = await main(process.argv.slice(2))
  process.stdout.write(`${JSON.stringify(answer)}\n`, () => process.exit(0))
}

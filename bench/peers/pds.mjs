// What any client gets from a PDS: new RSVP records by putRecord, accounts in turn, over so
// many connections that are kept.  Once for each number of connections; says
// what each reached, in writes a second.

import { once } from 'node:events'
import { Pool } from 'undici'

const options = JSON.parse(process.argv[2])
const { url, accounts, puts, events, event } = options
const now = () => Number(process.hrtime.bigint()) / 1e9

async function call(pool, path, { method = 'POST', token, body } = {}) {
  const { statusCode, body: answer } = await pool.request({
    path: `/xrpc/${path}`, method,
    headers: { 'content-type': 'application/json', ...(token && { authorization: `Bearer ${token}` }) },
    body: body && JSON.stringify(body),
  })
  const said = await answer.json()
  if (statusCode !== 200) throw new Error(`${path}: ${statusCode} ${JSON.stringify(said)}`)
  return said
}

const first = new Pool(url, { connections: 8 })
const sessions = []
for (const { did, password } of accounts)
  sessions.push({ did, token: (await call(first, 'com.atproto.server.createSession', { body: { identifier: did, password } })).accessJwt })
await first.close()

// Keys that nobody else has
const letters = '234567abcdefghijklmnopqrstuvwxyz'
let serial = options.serial
const key = () => {
  let n = serial++
  let text = ''
  for (let i = 0; i < 11; i++, n = Math.floor(n / 32)) text = letters[n % 32] + text
  return `3k${text}`
}

const rates = {}
console.log('ready')
await once(process.stdin, 'data')
process.stdin.pause()
for (const connections of options.connections) {
  const pool = new Pool(url, { connections, pipelining: 1, keepAliveTimeout: 60000 })
  let next = 0
  const began = now()
  await Promise.all(Array.from({ length: connections }, async (_, lane) => {
    // An account's writes one after the other, as its repository takes them anyway
    const mine = sessions.filter((_, i) => i % connections === lane)
    for (let i = 0; next < puts && mine.length; i++) {
      const n = next++
      const { did, token } = mine[i % mine.length]
      await call(pool, 'com.atproto.repo.putRecord', {
        token,
        body: {
          repo: did, collection: 'community.lexicon.calendar.rsvp', rkey: key(),
          record: {
            $type: 'community.lexicon.calendar.rsvp',
            subject: { uri: event.uri.replace(/[^/]+$/, `3kforeign${n % events}`), cid: event.cid },
            status: 'community.lexicon.calendar.rsvp#going', createdAt: '2026-01-01T00:00:00.000Z',
          },
        },
      })
    }
  }))
  rates[connections] = puts / (now() - began)
  await pool.close()
}
console.log(JSON.stringify({ rates, serial }))
process.exit(0)

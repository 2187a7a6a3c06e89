// What the peers' jobs do: one POST each, over a pool of connections that are
// kept; and how a peer hears what is asked of it and says what it has measured.

import { once } from 'node:events'
import { Pool } from 'undici'

export const options = JSON.parse(process.argv[2])

// As large as a putRecord of ours
const record = {
  repo: 'did:plc:ewvi7nxzyoun6zhxrhs64oiz',
  collection: 'community.lexicon.calendar.rsvp',
  rkey: '3lbenchrkey2k',
  record: {
    $type: 'community.lexicon.calendar.rsvp',
    subject: {
      uri: 'at://did:plc:ewvi7nxzyoun6zhxrhs64oiz/community.lexicon.calendar.event/3kevent000001',
      cid: 'bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a',
    },
    status: 'community.lexicon.calendar.rsvp#going',
    createdAt: '2026-01-01T00:00:00.000Z',
  },
}
export const payload = record

const pools = (options.urls ?? [options.url]).map((url, i, all) =>
  new Pool(url, { connections: Math.ceil(options.connections / all.length), pipelining: 1, keepAliveTimeout: 60000 }))
const headers = { 'content-type': 'application/json', authorization: 'Bearer access' }
let turn = 0

export async function post(body) {
  const pool = pools[turn++ % pools.length]
  const { statusCode, body: answer } = await pool.request({
    path: '/xrpc/com.atproto.repo.putRecord', method: 'POST', headers, body: JSON.stringify(body),
  })
  const said = await answer.json()
  if (statusCode !== 200 || !said.cid) throw new Error(`status ${statusCode}`)
}

// The jobs are in the queue: whoever measures says when to begin
export async function ready() {
  console.log('ready')
  await once(process.stdin, 'data')
  process.stdin.pause()
}

export async function finish(seconds, more = {}) {
  await Promise.all(pools.map((pool) => pool.close()))
  console.log(JSON.stringify({ seconds, ...more }))
  process.exit(0)
}

// Seconds of a processor that this process has used
export function cpu() {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e6
}
export const now = () => Number(process.hrtime.bigint()) / 1e9

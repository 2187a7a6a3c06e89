// pg-boss by hand: fetch 500, post them 32 at a time, complete them all.  (Its own
// work() is several times slower.)

import { PgBoss } from 'pg-boss'
import pg from 'pg'
import { cpu, finish, now, options, payload, post, ready } from './http.mjs'

const boss = new PgBoss({ ...options.pg, max: 10, supervise: false, schedule: false })
boss.on('error', (error) => { console.error(error); process.exit(1) })
await boss.start()
await boss.createQueue('put')
for (let left = options.jobs; left > 0; left -= 1000)
  await boss.insert('put', Array.from({ length: Math.min(left, 1000) }, () => ({ data: payload })))
const pool = new pg.Pool({ ...options.pg, max: 1 })
await pool.query('VACUUM ANALYZE')
await ready()
const before = cpu()

const began = now()
let done = 0
while (done < options.jobs) {
  const jobs = await boss.fetch('put', { batchSize: options.batch ?? 500 })
  let next = 0
  await Promise.all(Array.from({ length: options.concurrency }, async () => {
    while (next < jobs.length) await post(jobs[next++].data)
  }))
  await boss.complete('put', jobs.map((job) => job.id))
  done += jobs.length
}
const seconds = now() - began
const used = cpu() - before
await boss.stop({ graceful: false })
await pool.end()
await finish(seconds, { posted: seconds, cpu: used })

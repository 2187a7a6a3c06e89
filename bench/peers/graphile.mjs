// graphile-worker, tuned: jobs fetched by the hundred and completed in batches.
// Puts so many jobs into its queue, then starts a runner and waits for its end.

import { Logger, makeWorkerUtils, run } from 'graphile-worker'
import pg from 'pg'
import { cpu, finish, now, options, payload, post, ready } from './http.mjs'

const logger = new Logger(() => (level, message) => { if (level === 'error') console.error(message) })
const preset = {
  worker: {
    concurrentJobs: options.concurrency,
    localQueue: { size: options.queue ?? 200 },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
    pollInterval: 1000,
  },
}
const pool = new pg.Pool({ ...options.pg, max: 10 })
pool.on('error', (error) => { throw error })
pool.on('connect', (client) => client.on('error', (error) => { throw error }))
const utils = await makeWorkerUtils({ pgPool: pool, preset, logger })
await utils.migrate()
for (let left = options.jobs; left > 0; left -= 1000)
  await utils.addJobs(Array.from({ length: Math.min(left, 1000) }, () => ({ identifier: 'put', payload })))
await utils.release()
await pool.query('VACUUM ANALYZE')
await ready()
const before = cpu()

let done = 0
let finished
const all = new Promise((resolve) => { finished = resolve })
const began = now()
const runner = await run({
  preset, logger, pgPool: pool, noHandleSignals: true, parsedCronItems: [],
  taskList: {
    put: async (body) => {
      await post(body)
      if (++done === options.jobs) finished()
    },
  },
})
await all
const posted = now() - began
await runner.stop()
const seconds = now() - began
const used = cpu() - before
const { rows: [{ count }] } = await pool.query('SELECT count(*) FROM graphile_worker._private_jobs')
if (Number(count) !== 0) throw new Error(`${count} jobs are left`)
await pool.end()
await finish(seconds, { posted, cpu: used })

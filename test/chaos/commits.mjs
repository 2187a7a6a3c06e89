// What a PDS has really done: every change of an RSVP record it committed, from
// its own sequencer, whoever asked for it and whoever heard the answer.
//
//   test/pds/run test/chaos/commits.mjs DATA_DIR [--unsequenced]
//
// Prints a JSON array of {at, did, rev, action, rkey, cid}, oldest first.
// --unsequenced: instead the accounts whose repository is ahead of the
// sequencer, [{did, rev, writes}]: that PDS was killed between two of its
// databases.  (writes: of the commit, as far as its records are still there.)
// To be asked while the PDS is down.

import { createRequire } from 'node:module'
import fs from 'node:fs'
import path from 'node:path'

const [dir, flag] = process.argv.slice(2)
const pds = createRequire(path.join(path.dirname(new URL(import.meta.url).pathname), '../pds/server.mjs'))
const Database = pds('better-sqlite3')
const { decode } = await import(pds.resolve('@ipld/dag-cbor'))
const COLLECTION = 'community.lexicon.calendar.rsvp/'

const open = (file) => new Database(file, { readonly: true })
const sequencer = open(path.join(dir, 'sequencer.sqlite'))
const all = sequencer.prepare("SELECT did, event, sequencedAt FROM repo_seq WHERE eventType = 'append' ORDER BY seq").all()
  .map((row) => ({ row, event: decode(row.event) }))

if (flag === '--unsequenced') {
  const last = new Map(all.map(({ row, event }) => [row.did, event.rev]))
  const stores = (at) => fs.readdirSync(at, { withFileTypes: true }).flatMap((f) =>
    f.isDirectory() ? stores(path.join(at, f.name)) : f.name === 'store.sqlite' ? [path.join(at, f.name)] : [])
  const roots = stores(path.join(dir, 'actors')).flatMap((file) => open(file).prepare(`SELECT did, rev,
    max(1, (SELECT count(*) FROM record WHERE "repoRev" = rev AND collection || '/' = '${COLLECTION}')) AS writes FROM repo_root`).all())
  console.log(JSON.stringify(roots.filter(({ did, rev }) => last.has(did) && rev > last.get(did))))
} else {
  console.log(JSON.stringify(all.flatMap(({ row, event }) => event.ops
    .filter((op) => op.path.startsWith(COLLECTION))
    .map((op) => ({ at: row.sequencedAt, did: row.did, rev: event.rev, action: op.action, rkey: op.path.slice(COLLECTION.length), cid: op.cid ? String(op.cid) : null })))))
}

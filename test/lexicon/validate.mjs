// Judges records by the published lexicons in this folder, with the official
// @atproto/lexicon package.
//
//   test/pds/run test/lexicon/validate.mjs [--strict] < RECORDS
//
// RECORDS is a JSON array of {uri, cid, value}.  Each value must conform to the
// lexicon of its $type, the uri's collection must be that type and its key a
// TID where the lexicon says so.  With --strict, RSVPs must also be what this
// project writes: a known status and a valid createdAt.
// Status 0: all conform.  1: some do not; each is named with the reason.

import fs from 'node:fs'
import path from 'node:path'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

const here = import.meta.dirname
const installed = createRequire(path.join(here, '../pds/package.json'))
const { Lexicons, jsonToLex } = await import(pathToFileURL(installed.resolve('@atproto/lexicon')))

const docs = fs.readdirSync(here).filter((f) => f.endsWith('.json')).map((f) => JSON.parse(fs.readFileSync(path.join(here, f), 'utf8')))
const lexicons = new Lexicons(docs)
const strict = process.argv.includes('--strict')

function judge({ uri, value }) {
  const [, collection, rkey] = /^at:\/\/[^/]+\/([^/]+)\/([^/]+)$/.exec(uri ?? '') ?? []
  if (!collection) return 'the uri is no at-uri of a record'
  if (value?.$type !== collection) return `$type is ${JSON.stringify(value?.$type)} in collection ${collection}`
  const def = lexicons.getDef(collection)
  if (!def) return `no lexicon here for ${collection}`
  try {
    lexicons.assertValidRecord(collection, jsonToLex(value))
  } catch (e) {
    return e.message
  }
  if (def.key === 'tid' && !/^[234567abcdefghij][234567abcdefghijklmnopqrstuvwxyz]{12}$/.test(rkey)) return `the record key ${rkey} is no TID`
  if (strict && collection === 'community.lexicon.calendar.rsvp') {
    const known = def.record.properties.status.knownValues
    if (!known.includes(value.status)) return `status ${value.status} is none of ${known.join(', ')}`
    if (typeof value.createdAt !== 'string' || !/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/.test(value.createdAt)) return `createdAt ${JSON.stringify(value.createdAt)} is no datetime`
  }
}

let records
try {
  records = JSON.parse(fs.readFileSync(0, 'utf8'))
  if (!Array.isArray(records)) throw new Error('not an array')
} catch (e) {
  console.error(`validate.mjs: the input is no JSON array of records: ${e.message}`)
  process.exit(2)
}
let bad = 0
for (const record of records) {
  const reason = judge(record)
  if (!reason) continue
  bad++
  console.error(`${record.uri ?? JSON.stringify(record)}: ${reason}`)
}
console.log(`${records.length - bad} of ${records.length} records conform`)
process.exit(bad ? 1 : 0)

// Reads what the extension renders, with parsers that others have written.
//
//   test/pds/run read.mjs < INPUTS
//
// INPUTS is a JSON array of {form, value}; the answer is a JSON array of what
// each was read as, or of {error}.  form:
//   html      microformats2: the items; texts and names of the elements
//   activity  ActivityStreams: the object's class and properties, as a library
//             for the Fediverse sees them; every term must be in the context
//   rss       a feed: channel and items; it must be well-formed XML
//   ics       iCalendar: the properties of the VEVENT, with their parameters
// Contexts of JSON-LD are taken from the library; nothing is fetched.

import fs from 'node:fs'
import path from 'node:path'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

const from = (file) => createRequire(file)
const load = (require, name) => import(pathToFileURL(require.resolve(name)))
const here = from(path.join(import.meta.dirname, 'package.json'))
const fedify = from(here.resolve('@fedify/vocab'))
const { mf2 } = await load(here, 'microformats-parser')
const vocabulary = await load(here, '@fedify/vocab')
const { preloadedContexts } = await load(fedify, '@fedify/vocab-runtime')
const jsonld = (await load(here, 'jsonld')).default
const RssParser = (await load(here, 'rss-parser')).default
const ICAL = (await load(here, 'ical.js')).default
const { parseFragment } = await load(from(here.resolve('microformats-parser')), 'parse5')
const sax = (await load(from(here.resolve('rss-parser')), 'xml2js')).default

const AS = 'https://www.w3.org/ns/activitystreams#'
const contexts = async (url) => {
  if (!(url in preloadedContexts)) throw new Error(`${url} would be fetched`)
  return { contextUrl: null, documentUrl: url, document: preloadedContexts[url] }
}
const loaders = { documentLoader: contexts, contextLoader: contexts }

// The context gives a name of its own kind to a term that it does not know.
function check(node) {
  if (Array.isArray(node)) node.forEach(check)
  else if (node !== null && typeof node === 'object') {
    for (const key of [...Object.keys(node), ...('@value' in node ? [] : [node['@type'] ?? []].flat())]) {
      if (!key.startsWith('@') && !key.startsWith(AS)) throw new Error(`${key} is no term of ActivityStreams`)
    }
    Object.values(node).forEach(check)
  }
}

async function about(object) {
  const href = (url) => url?.href ?? null
  const result = {
    class: object.constructor.name,
    id: href(object.id),
    replyTo: href(object.replyTargetId),
    to: object.toIds.map(href),
    cc: object.ccIds.map(href),
    published: object.published?.toString() ?? null,
    updated: object.updated?.toString() ?? null,
    url: href(object.url),
    source: object.source?.content?.toString() ?? null,
  }
  if (object instanceof vocabulary.Activity) {
    result.actor = href(object.actorId)
    result.object = href(object.objectId)
    // What is embedded and of another site is not believed, hence not there.
    const embedded = await object.getObject({ ...loaders, suppressError: true })
    if (embedded) result.embedded = await about(embedded)
  }
  if ('totalItems' in object) {
    Object.assign(result, { totalItems: object.totalItems, first: href(object.firstId), last: href(object.lastId), items: [] })
    for await (const item of object.getItems(loaders)) result.items.push(await about(item))
  }
  return result
}

async function activity(value) {
  const expanded = await jsonld.expand(value, { documentLoader: contexts, safe: true })
  check(expanded)
  const result = await about(await vocabulary.Object.fromJsonLd(value, loaders))
  result.objectType = expanded[0][`${AS}object`]?.[0]['@type']?.[0].slice(AS.length) ?? null
  return result
}

// The text of elements by their class: what microformats2 does not look at
function texts(node, found = {}) {
  const text = (n) => n.value ?? (n.childNodes ?? []).map(text).join('')
  const names = node.attrs?.find((a) => a.name === 'class')?.value.split(' ') ?? []
  for (const name of names) found[name] = text(node)
  node.childNodes?.forEach((n) => texts(n, found))
  return found
}

function html(value) {
  const tree = parseFragment(value)
  const elements = (n) => [n.nodeName, ...(n.childNodes ?? []).flatMap(elements)]
  return { items: mf2(value, { baseUrl: 'https://base.example/' }).items, texts: texts(tree), elements: elements(tree).filter((n) => !n.startsWith('#')) }
}

async function rss(value) {
  await new sax.Parser({ strict: true, async: false }).parseStringPromise(value)
  const feed = await new RssParser().parseString(value)
  return { title: feed.title, items: feed.items }
}

function ics(value) {
  const calendar = new ICAL.Component(ICAL.parse(value))
  const events = calendar.getAllSubcomponents('vevent')
  if (calendar.name !== 'vcalendar' || events.length !== 1) throw new Error(`${calendar.name} with ${events.length} events`)
  const event = new ICAL.Event(events[0])
  const properties = {}
  for (const p of events[0].getAllProperties()) {
    const [, parameters, type, ...values] = p.toJSON()
    properties[p.name] = { type, parameters, values }
  }
  return { summary: event.summary, start: event.startDate.toString(), uid: event.uid, properties }
}

const readers = { html, activity, rss, ics }
const results = []
for (const { form, value } of JSON.parse(fs.readFileSync(0, 'utf8'))) {
  try {
    results.push(await readers[form](value))
  } catch (e) {
    results.push({ error: `${e.name}: ${e.message}` })
  }
}
process.stdout.write(JSON.stringify(results))

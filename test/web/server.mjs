// A web site for the tests of webmentions: pages, endpoints, and what was
// asked of them.
//
//   test/pds/run test/web/server.mjs
//
// Prints {"port", "other"} and ends when its standard input does.  It listens
// on two ports, the second of which tests do not name among the insecure hosts.
//
//   PUT    /_test/pages   {"/path": {status, headers, body, delayMs, hang, count}}
//                         or a list of them, one answer after another; "POST /path"
//                         for POSTs alone; a null takes a page away
//   GET    /_test/log     [{method, path, headers, form}]
//   DELETE /_test/log
//
// {BASE} and {OTHER} in headers and bodies become the addresses of the two.
// /test/1 to /test/23 are pages as webmention.rocks describes them.

import { createServer } from 'node:http'

let log = []
const pages = new Map()
const waiting = new Set()

const link = (n, rest = '') => `/test/${n}/webmention${rest}`
const html = (head, body) => `<!DOCTYPE html><html><head><title>x</title>${head}</head><body>${body}</body></html>`
const discovery = {
  1: { link: `<${link(1)}>; rel=webmention` },
  2: { link: `<{BASE}${link(2)}>; rel=webmention` },
  3: { head: `<link rel="webmention" href="${link(3)}">` },
  4: { head: `<link href="{BASE}${link(4)}" rel="webmention">` },
  5: { body: `<a rel="webmention" href="${link(5)}">x</a>` },
  6: { body: `<a href="{BASE}${link(6)}" rel="webmention">x</a>` },
  7: { name: 'LinK', link: `<{BASE}${link(7)}>; rel=webmention` },
  8: { link: `<{BASE}${link(8)}>; rel="webmention"` },
  9: { head: `<link rel="webmention somethingelse" href="{BASE}${link(9)}">` },
  10: { link: `<{BASE}${link(10)}>; rel="webmention somethingelse"` },
  11: { link: `<{BASE}${link(11)}>; rel="webmention"`, head: `<link rel="webmention" href="${link(11, '/error')}">`, body: `<a href="${link(11, '/error')}" rel="webmention">x</a>` },
  12: { head: `<link rel="not-webmention" href="${link(12, '/error')}">`, body: `<a href="${link(12)}" rel="webmention">x</a>` },
  13: { body: `<!-- <a href="${link(13, '/error')}" rel="webmention">x</a> --><a href="${link(13)}" rel="webmention">x</a>` },
  14: { body: `<code>&lt;a href="${link(14, '/error')}" rel="webmention"&gt;</code><a href="${link(14)}" rel="webmention">x</a>` },
  15: { head: '<link rel="webmention" href="">', endpoint: '/test/15' },
  16: { body: `<a href="${link(16)}" rel="webmention">x</a><link rel="webmention" href="${link(16, '/error')}">` },
  17: { body: `<link rel="webmention" href="${link(17)}"><a href="${link(17, '/error')}" rel="webmention">x</a>` },
  18: { link: [`<{BASE}${link(18, '/error')}>; rel="other"`, `<{BASE}${link(18)}>; rel="webmention"`] },
  19: { link: `<{BASE}${link(19, '/error')}>; rel="other", <{BASE}${link(19)}>; rel="webmention"` },
  20: { head: '<link rel="webmention">', body: `<a href="${link(20)}" rel="webmention">x</a>` },
  21: { head: `<link rel="webmention" href="${link(21, '?query=yes')}">`, endpoint: link(21, '?query=yes') },
  22: { head: '<link rel="webmention" href="22/webmention">' },
}
let keys = 0
const used = new Set()

// Test 23: every address may be asked once, and the endpoint lies beside the page.
function single(path, res) {
  const target = '/test/23/page'
  if (path === target) return send(res, { status: 302, headers: { location: `page/${++keys}` } })
  if (used.has(path)) return send(res, { status: 410, body: 'used up' })
  used.add(path)
  if (path.startsWith(`${target}/webmention-endpoint/`)) return send(res, { status: 202, body: 'accepted' })
  send(res, { headers: { link: `<webmention-endpoint/${++keys}>; rel=webmention` }, body: html('', 'x') })
}

function send(res, { status = 200, headers = {}, body = '' }) {
  const fill = (text) => String(text).replaceAll('{BASE}', base).replaceAll('{OTHER}', other)
  const all = { 'content-type': 'text/html; charset=utf-8', ...headers }
  for (const [name, value] of Object.entries(all)) {
    if (value === null) continue
    res.setHeader(name, Array.isArray(value) ? value.map(fill) : fill(value))
  }
  res.writeHead(status)
  res.end(fill(body))
}

async function serve(req, res, body) {
  const path = req.url
  const key = pages.has(`${req.method} ${path}`) ? `${req.method} ${path}` : path
  const page = pages.get(key)
  if (page !== undefined) {
    const answer = Array.isArray(page) ? page[0] : page
    if (Array.isArray(page) && page.length > 1) page.shift()
    if (answer.delayMs) await new Promise((ok) => setTimeout(ok, answer.delayMs))
    if (answer.hang) return waiting.add(res)
    if (answer.reset) return req.socket.resetAndDestroy()
    return send(res, answer)
  }
  if (path.startsWith('/test/23/')) return single(path, res)
  const n = /^\/test\/(\d+)$/.exec(path)?.[1]
  const found = Object.entries(discovery).find(([number, d]) => (d.endpoint ?? link(number)) === path)
  if (found && req.method === 'POST') return send(res, { status: 202, body: 'accepted' })
  if (discovery[n] && req.method === 'GET') {
    const d = discovery[n]
    return send(res, { headers: d.link ? { [d.name ?? 'link']: d.link } : {}, body: html(d.head ?? '', d.body ?? '') })
  }
  send(res, { status: 404, body: 'not found' })
}

async function handle(req, res) {
  const parts = []
  for await (const part of req) parts.push(part)
  const body = Buffer.concat(parts).toString()
  if (req.url === '/_test/log') {
    if (req.method === 'DELETE') log = []
    return send(res, { headers: { 'content-type': 'application/json' }, body: JSON.stringify(log) })
  }
  if (req.url === '/_test/pages') {
    for (const [path, page] of Object.entries(JSON.parse(body))) {
      if (page === null) pages.delete(path)
      else pages.set(path, page)
    }
    return send(res, { body: 'ok' })
  }
  log.push({
    method: req.method, path: req.url, headers: req.headers, host: req.headers.host,
    form: /^application\/x-www-form-urlencoded$/.test(req.headers['content-type'] ?? '') ? Object.fromEntries(new URLSearchParams(body)) : null,
  })
  await serve(req, res, body)
}

const listen = async () => {
  const server = createServer((req, res) => handle(req, res).catch((e) => { console.error(e); res.destroy() }))
  await new Promise((ok) => server.listen(0, '127.0.0.1', ok))
  return server.address().port
}
const port = await listen()
const otherPort = await listen()
const base = `http://127.0.0.1:${port}`
const other = `http://127.0.0.1:${otherPort}`
console.log(JSON.stringify({ port, other: otherPort }))
process.stdin.on('end', () => process.exit(0)).resume()

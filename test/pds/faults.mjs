// What stands between the clients and a server under test: a log of every
// request, and faults on demand.
//
//   const bench = new Bench()
//   bench.observe(httpServer, 'pds')     the server's own handlers stay behind it
//
// The bench answers paths under /_test/ itself:
//
//   GET    /_test/log      the requests so far, a JSON array, oldest first
//   DELETE /_test/log      forget them
//   GET    /_test/fault    the rules in force, with the counts that are left
//   POST   /_test/fault    replace them by a JSON array (or one object)
//   DELETE /_test/fault    none any more; whatever hangs goes on
//   POST   /_test/down     refuse connections, break those that are open
//   POST   /_test/up       listen again
//
// Down and up are answered on the control port only (see server.mjs).
//
//   POST   /_test/limit    rate limits as the PDS has them, with windows of our
//                          choice: a JSON array of { points, window (seconds),
//                          per ('ip' or 'did'), costs ({ method: points },
//                          default: 1 each) }; [] takes them away.  Every
//                          answer carries the headers of the tightest one.
//                          Where putRecord costs something, applyWrites costs
//                          what the PDS takes for its writes.
//
// Requests of the tests' own client (client.mjs, by its User-Agent) are logged,
// marked "own", and never hit by a fault.
//
// A rule says which requests it hits:
//   match       regular expression on the path with its query (default: all)
//   method      GET, POST ...
//   did         the access token's subject or the repo asked for
//   says        regular expression on the request's body
//   on          'pds' (default) or 'plc'
//   skip        let so many matching requests pass first
//   count       hit so many (default 1; -1: for ever)
// and what happens, in this order:
//   delayMs     wait before the server sees it
//   after       true: let the server do its work first, its answer is lost
//               (alone: the connection closes without an answer)
//   answerDelayMs   wait before the answer is sent
//   hang        true: no answer until the rules are replaced or cleared
//   reset       true: TCP reset
//   status, headers, body     this answer instead
//   garbage     true: 200 with a JSON type and bytes that are no JSON;
//               'http': bytes that are not even HTTP
//   bigBytes    an answer of so many bytes, well-formed JSON
//   truncate    the first so many bytes of the answer, then close
//   slowBps     trickle the answer, so many bytes a second

import fs from 'node:fs'
import { once } from 'node:events'
import http from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'

const KEEP_BODY = 2_000_000 // bytes of a request or answer looked into for the log
const KEEP_LOG = 200_000 // requests

// What a PDS takes for each of the writes of one call
const POINTS = { create: 3, update: 2, delete: 1 }

const WRITE = /^com\.atproto\.repo\.((create|put|delete)Record|applyWrites)$/

export const OWN_AGENT = 'rsvp-sync-test-client'

const json = (text) => { try { return JSON.parse(text) } catch { return undefined } }
const writesOf = (body) => (body?.writes ?? []).map((w) => ({ op: String(w?.$type).split('#').pop(), collection: w?.collection, rkey: w?.rkey, record: w?.value }))
const subject = (req) => {
  const token = /^(?:Bearer|DPoP) [^.]+\.([^.]+)\./.exec(req.headers.authorization ?? '')
  return token ? json(Buffer.from(token[1], 'base64url').toString())?.sub : undefined
}

export class Bench {
  #rules = []
  #waiting = new Set() // resolvers of the hanging requests
  #log = []
  #limits = []
  #seq = 0
  #servers = new Map()
  #file = null

  // Requests also to a file, a JSON object a line, each when it came and again
  // when it ended: that log is there still when this process was killed.
  keepLogIn(file) { this.#file = fs.openSync(file, 'a') }

  #note(entry, ended) {
    if (this.#file !== null) fs.writeSync(this.#file, JSON.stringify({ ...entry, pid: process.pid, ended }) + '\n')
  }

  observe(server, name) {
    const inner = server.listeners('request')
    server.removeAllListeners('request')
    const pass = (req, res) => { for (const handler of inner) handler.call(server, req, res) }
    server.on('request', (req, res) => {
      if (req.url.startsWith('/_test/')) return this.#control(req, res, false)
      this.#handle(req, res, name, pass).catch(() => req.socket.destroy())
    })
    const sockets = new Set()
    server.on('connection', (socket) => { sockets.add(socket); socket.on('close', () => sockets.delete(socket)) })
    this.#servers.set(name, { server, address: server.address(), sockets })
  }

  // A port of its own, so that the bench can be asked while the PDS is down.
  async control(host) {
    const server = http.createServer((req, res) => this.#control(req, res, true))
    await new Promise((ok) => server.listen(0, host, ok))
    return server
  }

  forgetLog() { this.#log = [] }

  release() {
    for (const go of this.#waiting) go()
    this.#waiting.clear()
  }

  async #control(req, res, ownPort) {
    let body = ''
    for await (const chunk of req) body += chunk
    const answer = (status, value) => res.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value) + '\n')
    switch (`${req.method} ${req.url.replace(/\?.*/, '')}`) {
      case 'GET /_test/log': return answer(200, this.#log)
      case 'DELETE /_test/log': this.forgetLog(); return answer(200, [])
      case 'GET /_test/fault': return answer(200, this.#rules)
      case 'DELETE /_test/fault': this.#rules = []; this.release(); return answer(200, [])
      case 'POST /_test/fault': {
        const rules = json(body || '[]')
        if (rules === undefined) return answer(400, { error: 'no JSON' })
        try { for (const r of [rules].flat()) new RegExp(r.match ?? '') } catch (e) { return answer(400, { error: e.message }) }
        this.#rules = [rules].flat()
        this.release()
        return answer(200, this.#rules)
      }
      case 'POST /_test/limit': {
        const limits = json(body || '[]')
        if (!Array.isArray(limits)) return answer(400, { error: 'no JSON array' })
        this.#limits = limits.map((l) => ({ ...l, windows: new Map() }))
        return answer(200, limits)
      }
      case 'POST /_test/down': case 'POST /_test/up': {
        if (!ownPort) return answer(400, { error: 'ask the control port' })
        const { server, address, sockets } = this.#servers.get(json(body || '{}')?.on ?? 'pds') ?? {}
        if (!server) return answer(400, { error: 'no such server' })
        if (req.url.startsWith('/_test/down')) {
          if (server.listening) server.close()
          for (const socket of sockets) socket.resetAndDestroy()
        } else if (!server.listening) {
          await new Promise((ok, no) => server.once('error', no).listen(address.port, address.address, ok))
        }
        return answer(200, { listening: server.listening })
      }
      default: return answer(404, { error: 'no such test call' })
    }
  }

  async #pick(req, name, entry) {
    const text = this.#rules.some((r) => r.says) ? await this.#ahead(req) : ''
    for (const rule of this.#rules) {
      if ((rule.on ?? 'pds') !== name) continue
      if (rule.method && rule.method !== req.method) continue
      if (rule.did && rule.did !== entry.did && rule.did !== entry.repo) continue
      if (!new RegExp(rule.match ?? '').test(req.url)) continue
      if (rule.says && !new RegExp(rule.says).test(text)) continue
      if ((rule.count ?? 1) === 0) continue
      if (rule.skip > 0) { rule.skip--; continue }
      rule.count = rule.count < 0 ? -1 : (rule.count ?? 1) - 1
      return rule
    }
  }

  // The body of a request, as text; the server still finds it there.
  async #ahead(req) {
    const parts = []
    for (let left = Number(req.headers['content-length']); left > 0;) {
      const chunk = req.read()
      if (!chunk) { await once(req, 'readable'); continue }
      parts.push(chunk)
      left -= chunk.length
    }
    const body = Buffer.concat(parts)
    if (body.length) req.unshift(body)
    return body.toString()
  }

  // Takes the points of a request before it is served, as the PDS does: a
  // window of fixed length begins with its first request.  True: refused.
  async #spend(req, res, entry) {
    const together = this.#limits.length > 0 && entry.call === 'com.atproto.repo.applyWrites' &&
      writesOf(json(await this.#ahead(req))).reduce((sum, { op }) => sum + (POINTS[op] ?? 0), 0)
    const now = Date.now()
    let tightest
    for (const { points, window, per, costs, windows } of this.#limits) {
      const key = per === 'did' ? entry.did : 'ip'
      const cost = !costs ? 1 : together && costs['com.atproto.repo.putRecord'] ? together : costs[entry.call] ?? 0
      if (!key || !cost) continue
      let w = windows.get(key)
      if (!w || w.ends <= now) windows.set(key, w = { used: 0, ends: now + window * 1000 })
      w.used += cost
      const left = points - w.used
      if (!tightest || left < tightest.left) tightest = { points, window, left, ends: w.ends }
    }
    if (!tightest) return false
    res.setHeader('RateLimit-Limit', tightest.points)
    res.setHeader('RateLimit-Remaining', Math.max(tightest.left, 0))
    res.setHeader('RateLimit-Reset', Math.floor(tightest.ends / 1000))
    res.setHeader('RateLimit-Policy', `${tightest.points};w=${tightest.window}`)
    if (tightest.left >= 0) return false
    entry.fault = 'limit'
    res.setHeader('Retry-After', Math.ceil((tightest.ends - now) / 1000))
    res.writeHead(429, { 'content-type': 'application/json' })
    res.end(JSON.stringify({ error: 'RateLimitExceeded', message: 'Rate Limit Exceeded' }))
    return true
  }

  async #handle(req, res, name, pass) {
    const entry = this.#enter(req, res, name)
    if (!entry.own && name === 'pds' && await this.#spend(req, res, entry)) return req.resume()
    const rule = entry.own ? undefined : await this.#pick(req, name, entry)
    if (!rule) {
      this.#watch(res, entry)
      return pass(req, res)
    }
    const kinds = ['delayMs', 'after', 'answerDelayMs', 'hang', 'reset', 'status', 'garbage', 'bigBytes', 'truncate', 'slowBps']
    entry.fault = kinds.filter((k) => rule[k] !== undefined).join(' ')

    let left = false
    res.on('close', () => { left = true })
    const hang = async () => {
      await new Promise((go) => { this.#waiting.add(go); res.on('close', go) })
      return left
    }

    if (rule.delayMs) await sleep(rule.delayMs)
    if (!rule.after) {
      if (rule.hang && await hang()) return
      if (rule.reset) return req.socket.resetAndDestroy()
    }
    const own = rule.status || rule.garbage || rule.bigBytes
    const reshape = rule.after || rule.answerDelayMs || rule.truncate !== undefined || rule.slowBps
    if (!own && !reshape) {
      this.#watch(res, entry)
      return pass(req, res)
    }

    let answer
    const raw = { write: res.write.bind(res), end: res.end.bind(res), writeHead: res.writeHead.bind(res) }
    if (!own || rule.after) {
      const body = await this.#capture(req, res, pass)
      entry.serverStatus = res.statusCode
      this.#look(entry, body)
      answer = { status: res.statusCode, headers: res.getHeaders(), body }
      for (const h of Object.keys(answer.headers)) res.removeHeader(h)
      delete answer.headers['transfer-encoding']
      Object.assign(res, raw)
    } else req.resume()

    if (rule.answerDelayMs) await sleep(rule.answerDelayMs)
    if (rule.after) {
      if (rule.hang && await hang()) return
      if (rule.reset) return req.socket.resetAndDestroy()
      if (!rule.hang && !own && !rule.answerDelayMs && rule.truncate === undefined && !rule.slowBps) return req.socket.destroy()
    }
    if (rule.garbage === 'http') return req.socket.end('\x16\x03\x01\x00\xff this is no HTTP \x00\xfe\r\n\r\n')
    if (own) {
      answer = this.#invent(rule)
      entry.error = answer.status >= 400 ? json(answer.body.toString())?.error : undefined
    }
    if (left) return
    await this.#send(res, answer, rule)
  }

  #invent(rule) {
    const headers = { 'content-type': 'application/json; charset=utf-8', ...rule.headers }
    if (rule.bigBytes) {
      const head = '{"filler":"', tail = '"}'
      const n = Math.max(rule.bigBytes - head.length - tail.length, 0)
      return { status: rule.status ?? 200, headers, big: { head, n, tail }, length: head.length + n + tail.length }
    }
    if (rule.garbage) return { status: rule.status ?? 200, headers, body: Buffer.from('{"uri": <<<\x00\xff\xfe not JSON at all', 'latin1') }
    const body = rule.body ?? { error: 'InternalServerError', message: 'Internal Server Error' }
    return { status: rule.status, headers, body: Buffer.from(typeof body === 'string' ? body : JSON.stringify(body)) }
  }

  async #send(res, { status, headers, body, big, length }, { truncate, slowBps }) {
    const total = length ?? body.length
    res.writeHead(status, { ...headers, 'content-length': total })
    res.flushHeaders()
    const step = slowBps ? Math.max(1, Math.floor(slowBps / 10)) : 65536
    const upTo = Math.min(truncate ?? total, total)
    const part = (from, to) => {
      if (!big) return body.subarray(from, to)
      const whole = Buffer.alloc(to - from, 'x')
      if (from < big.head.length) whole.write(big.head.slice(from, to), 0)
      const tailAt = big.head.length + big.n
      for (let i = Math.max(from, tailAt); i < to; i++) whole.write(big.tail[i - tailAt], i - from)
      return whole
    }
    for (let at = 0; at < upTo && !res.destroyed; at += step) {
      if (slowBps && at) await sleep(100)
      if (!res.write(part(at, Math.min(at + step, upTo)))) await new Promise((ok) => res.once('drain', ok).once('close', ok))
    }
    if (upTo < total) {
      await new Promise((ok) => setImmediate(ok))
      res.socket?.destroySoon()
    } else res.end()
  }

  // Lets the server answer into memory.
  #capture(req, res, pass) {
    return new Promise((ok) => {
      const parts = []
      let headed = false
      const take = (chunk, encoding) => { if (chunk && typeof chunk !== 'function') parts.push(Buffer.from(chunk, typeof encoding === 'string' ? encoding : undefined)) }
      const called = (...args) => { const f = args.find((x) => typeof x === 'function'); if (f) process.nextTick(f) }
      const head = () => { if (!headed) res.writeHead(res.statusCode) }
      res.writeHead = (status, ...rest) => {
        headed = true
        res.statusCode = status
        const headers = rest.find((x) => x && typeof x === 'object')
        if (Array.isArray(headers)) for (let i = 0; i < headers.length; i += 2) res.setHeader(headers[i], headers[i + 1])
        else for (const [k, v] of Object.entries(headers ?? {})) if (v !== undefined) res.setHeader(k, v)
        return res
      }
      res.write = (chunk, encoding, cb) => { head(); take(chunk, encoding); called(encoding, cb); return true }
      res.end = (chunk, encoding, cb) => { head(); take(chunk, encoding); called(chunk, encoding, cb); ok(Buffer.concat(parts)); return res }
      // A write is done also for a client that has left.
      if (!WRITE.test(/^\/xrpc\/([^/?]+)/.exec(req.url)?.[1] ?? '')) res.on('close', () => ok(Buffer.concat(parts)))
      pass(req, res)
    })
  }

  // --- the log

  #enter(req, res, name) {
    const url = new URL(req.url, 'http://x')
    const entry = {
      n: ++this.#seq, on: name, time: new Date().toISOString(), method: req.method, path: url.pathname, query: url.search.slice(1),
      call: /^\/xrpc\/([^/]+)$/.exec(url.pathname)?.[1], did: subject(req), userAgent: req.headers['user-agent'], cookie: req.headers.cookie,
      status: null, // what the client got; null: nothing (yet)
      serverStatus: null, // what the server itself answered; null: it never saw the request
      fault: null, ms: null,
    }
    if (entry.userAgent === OWN_AGENT) entry.own = true
    for (const k of ['repo', 'collection', 'rkey', 'did', 'cursor']) if (url.searchParams.has(k)) entry[k === 'did' ? 'repo' : k] = url.searchParams.get(k)
    this.#log.push(entry)
    if (this.#log.length > KEEP_LOG) this.#log.shift()
    const began = performance.now()
    res.on('finish', () => { entry.status = res.statusCode })
    res.on('close', () => {
      entry.ms = Math.round(performance.now() - began)
      setImmediate(() => this.#note(entry, new Date().toISOString())) // after whoever looks at the answer
    })
    this.#note(entry, null)
    if (req.method === 'POST' && /json/.test(req.headers['content-type'] ?? '')) this.#readAlong(req, entry)
    return entry
  }

  // What the parser hands to the request is seen here too, without consuming it.
  #readAlong(req, entry) {
    const parts = []
    let size = 0
    const push = req.push.bind(req)
    req.push = (chunk, encoding) => {
      if (chunk && (size += chunk.length) <= KEEP_BODY) parts.push(Buffer.from(chunk))
      if (chunk === null && size <= KEEP_BODY) {
        const body = json(Buffer.concat(parts).toString()) ?? {}
        for (const k of ['repo', 'collection', 'rkey', 'identifier', 'swapRecord', 'swapCommit']) if (k in body) entry[k] = body[k]
        if (entry.call?.startsWith('com.atproto.repo.') && body.record) entry.record = body.record
        if (Array.isArray(body.writes)) entry.writes = writesOf(body)
      }
      return push(chunk, encoding)
    }
  }

  // A plain request: see the answer go by.
  #watch(res, entry) {
    const parts = []
    const { write, end } = res
    const keep = (chunk, encoding) => {
      if (!chunk || typeof chunk === 'function' || !(WRITE.test(entry.call ?? '') || res.statusCode >= 400)) return
      parts.push(Buffer.from(chunk, typeof encoding === 'string' ? encoding : undefined))
    }
    res.write = function (...x) { keep(...x); return write.apply(this, x) }
    // Also for a client that has left: the server goes on with its write.
    res.end = function (...x) { keep(...x); const r = end.apply(this, x); if (res.destroyed) look(); return r }
    const look = () => {
      entry.serverStatus = res.headersSent ? res.statusCode : entry.serverStatus
      if (!res.getHeader('content-encoding')) this.#look(entry, Buffer.concat(parts))
    }
    res.on('finish', look)
    res.on('close', () => { if (!res.writableFinished) look() })
  }

  // A refusal has a name; a write that changed something has a commit in its
  // answer.
  #look(entry, body) {
    const answer = json(body.toString())
    if (entry.serverStatus >= 400) entry.error = answer?.error
    if (!WRITE.test(entry.call ?? '')) return
    if (!answer || entry.serverStatus !== 200) { entry.committed = false; return }
    entry.committed = Boolean(answer.commit)
    if (answer.cid) entry.cid = answer.cid
    if (answer.uri) entry.uri = answer.uri
    answer.results?.forEach(({ cid, uri }, i) => { if (cid && entry.writes?.[i]) Object.assign(entry.writes[i], { cid, uri }) })
    if (answer.commit) entry.rev = answer.commit.rev
  }
}

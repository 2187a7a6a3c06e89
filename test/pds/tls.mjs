// TLS in front of a server that has none.
//
//   run tls.mjs TARGET_PORT CERTIFICATE KEY
//
// Prints the port it listens on.  SIGHUP: reads the files again and breaks what
// is open.  Ends when its input does.

import fs from 'node:fs'
import net from 'node:net'
import tls from 'node:tls'

const [target, certificate, key] = process.argv.slice(2)
const context = () => ({ cert: fs.readFileSync(certificate), key: fs.readFileSync(key) })
const open = new Set()

const server = tls.createServer(context(), (client) => {
  const inner = net.connect(Number(target), '127.0.0.1')
  for (const [one, other] of [[client, inner], [inner, client]]) {
    open.add(one)
    one.on('error', () => other.destroy())
    one.on('close', () => { open.delete(one); other.destroy() })
    one.pipe(other)
  }
})
server.on('tlsClientError', () => {}) // who does not trust us leaves
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
process.on('SIGHUP', () => {
  server.setSecureContext(context())
  for (const socket of open) socket.destroy()
})
process.stdin.on('end', () => process.exit(0)).resume()

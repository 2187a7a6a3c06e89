// An HTTP/2 server for http_test: prints its port, ends with its input.
// Each answer has the number of its connection; /reset breaks its stream.
'use strict';
const http2 = require('node:http2');
const pem = require('node:fs').readFileSync(process.argv[2]);

const server = http2.createSecureServer({ key: pem, cert: pem });
let connections = 0;

server.on('session', (session) => {
  session.number = ++connections;
});
server.on('stream', (stream, headers) => {
  stream.on('error', () => {});
  if (headers[':path'] === '/reset') {
    stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR);
    return;
  }
  setTimeout(() => {
    stream.respond({ ':status': 200, 'X-Connection': stream.session.number });
    stream.end('{}');
  }, 50);
});
server.listen(0, '127.0.0.77', () => console.log(server.address().port));
process.stdin.resume().on('end', () => process.exit(0));

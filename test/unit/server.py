#!/usr/bin/env python3
"""The other side of http_test: a server that misbehaves on request.

The path says how.  Every connection has a number, sent as X-Connection with
each answer, from which the test sees which connections were used again.

Listens on free ports and prints them: one of 127.0.0.1 for HTTP, one of
127.0.0.77 for HTTPS with the certificate given (PEM, with its key) as the
argument.  The third number is 443 if 127.0.0.77:443 could be had, else 0.
"""

import asyncio
import base64
import hashlib
import socket
import ssl
import struct
import sys

connections = 0


def head(status, *lines):
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode()


def answer(status, body, *lines):
    return head(status, f"Content-Length: {len(body)}", *lines) + body


def reset(writer):
    """Close so that the client sees a reset instead of an end."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                    struct.pack("ii", 1, 0))
    writer.transport.abort()


async def flood(writer, chunked):
    """50 MB, as fast as they are taken."""
    block = b"x" * 65536
    if chunked:
        writer.write(head("200 OK", "Transfer-Encoding: chunked"))
        block = b"%x\r\n%s\r\n" % (len(block), block)
    else:
        writer.write(head("200 OK"))    # ends with the connection
    for _ in range(800):
        if writer.transport.is_closing():
            break
        writer.write(block)
        await writer.drain()


async def trickle(writer):
    writer.write(head("200 OK", "Content-Length: 100000"))
    for _ in range(200):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.1)


# What is sent in answer to a path, after which the connection stays open
REPLIES = {
    "/redirect": answer("302 Found", b"", "Location: /else?where"),
    "/text": answer("502 Bad Gateway", b"<html>\x00\xff</html>",
                    "Content-Type: text/html"),
    "/early": head("103 Early Hints", "X-Which: early") +
              answer("200 OK", b"late", "X-Which: late"),
    "/many": answer("200 OK", b"{}", "Link: <a>", "link:<b> ", "X-Empty:",
                    "LINK: <c>"),
    "/nothing": head("204 No Content"),
    "/headers": answer("200 OK", b"", *["X-Pad: " + "x" * 1000] * 200),
    "/header": answer("200 OK", b"", "X-Pad: " + "x" * 200000),
    "/garbage": b"SSH-2.0-OpenSSH_9.2\r\n\r\n\r\n",
    "/declared": head("200 OK", "Content-Length: 50000000"),
}


async def websocket(path, request, reader, writer):
    """Upgrade, say something, and then behave as the path says."""
    key = [line.split(b":")[1].strip() for line in request.split(b"\r\n")
           if line.lower().startswith(b"sec-websocket-key:")][0]
    guid = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key + guid).digest()).decode()
    writer.write(head("101 Switching Protocols", "Upgrade: websocket",
                      "Connection: Upgrade", f"Sec-WebSocket-Accept: {accept}"))
    writer.write(b"\x81\x05hello")
    await writer.drain()
    if path == "/ws/cut":
        reset(writer)
    elif path == "/ws/flood":
        block = b"\x81\x7e\x10\x00" + b"x" * 4096
        while not writer.transport.is_closing():
            writer.write(block * 16)
            await writer.drain()
    elif path == "/ws/silent":
        await asyncio.sleep(30)
    else:
        # Answer pings, and say what was heard in whole frames without a mask
        while True:
            first, size = await reader.readexactly(2)
            mask = await reader.readexactly(4)
            data = await reader.readexactly(size & 0x7f)
            data = bytes(b ^ mask[i % 4] for i, b in enumerate(data))
            if first & 15 == 8:
                writer.write(bytes([0x88, len(data)]) + data)
                await writer.drain()
                return
            if first & 15 == 9:
                writer.write(bytes([0x8a, len(data)]) + data)
                writer.write(b"\x81\x06pinged")
                await writer.drain()


async def serve(path, request, number, writer):
    """Answer one request; returns whether the connection stays open."""
    mark = f"X-Connection: {number}"
    if path in REPLIES:
        writer.write(REPLIES[path])
    elif path == "/hang":
        await asyncio.sleep(30)
    elif path == "/slow":
        await asyncio.sleep(0.4)
        writer.write(answer("200 OK", b"{}", mark))
    elif path == "/trickle":
        await trickle(writer)
    elif path == "/flood":
        await flood(writer, False)
        return False
    elif path == "/chunks":
        await flood(writer, True)
        return False
    elif path == "/reset":
        reset(writer)
        return False
    elif path == "/empty":
        return False
    elif path == "/truncated":
        writer.write(head("200 OK", "Content-Length: 1000") + b"{")
        return False
    elif path == "/leave":
        # Keep-alive promised, and not kept
        writer.write(answer("200 OK", b"{}", mark))
        return False
    else:
        writer.write(answer("200 OK", request, mark))
    await writer.drain()
    return True


async def handle(reader, writer):
    global connections
    connections += 1
    number = connections
    stays = True
    doomed = False
    try:
        while stays:
            request = await reader.readuntil(b"\r\n\r\n")
            for line in request.split(b"\r\n"):
                if line.lower().startswith(b"content-length:"):
                    request += await reader.readexactly(int(line[15:]))
            if doomed:
                reset(writer)
                return
            path = request.split()[1].decode()
            if path.startswith("/ws/"):
                await websocket(path, request, reader, writer)
                return
            stays = await serve(path, request, number, writer)
            # Looks alive until it is used again
            doomed = path == "/doomed"
    except (asyncio.IncompleteReadError, asyncio.CancelledError,
            ConnectionError):
        pass
    finally:
        writer.close()


async def privileged(tls):
    """HTTPS at its own port, where we are allowed to; elsewhere port 0."""
    try:
        await asyncio.start_server(handle, "127.0.0.77", 443, ssl=tls)
        return 443
    except OSError:
        return 0


async def main():
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(sys.argv[1])
    plain = await asyncio.start_server(handle, "127.0.0.1", 0, backlog=512)
    secure = await asyncio.start_server(handle, "127.0.0.77", 0, ssl=tls)
    print(plain.sockets[0].getsockname()[1],
          secure.sockets[0].getsockname()[1],
          await privileged(tls), flush=True)
    # Ends with the test: its end of our standard input closes
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main())

"""The limit: uploads over raw sockets, nothing read from a disk, nothing kept.

`python raw.py HOST PORT CONNECTIONS FILES BYTES [CERTIFICATE]` prints the uploads a second.
"""

import asyncio
import os
import ssl
import sys
import time

host, port, connections, files, size = sys.argv[1], *map(int, sys.argv[2:6])
context = ssl.create_default_context(cafile=sys.argv[6]) if len(sys.argv) > 6 else None
head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
body = head + os.urandom(size) + b"\r\n--b--\r\n"
request = (
    f"POST /v2/files/-/uploads HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n"
    "content-type: multipart/form-data; boundary=b\r\n\r\n"
).encode() + body


async def work(left):
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    while left:
        left.pop()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.partition(b"content-length: ")[2].partition(b"\r")[0]
        await reader.readexactly(int(length))
    writer.close()


async def main():
    left = [None] * files
    began = time.perf_counter()
    await asyncio.gather(*(work(left) for _ in range(connections)))
    sys.stdout.write(f"{files / (time.perf_counter() - began)}\n")


asyncio.run(main())

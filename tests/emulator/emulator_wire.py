"""Helpers of the emulator's tests below HTTP clients: names, and plain connections."""

import socket

import httpx

KEY = "emulator-key"
TOKEN = "sy2-0123abcd-" + "-".join(["4f" * 6] * 3) + "-" + "5e" * 10
FIRST_KIND_OF_TOKEN = "sy1-0123abcd-" + "4f" * 14


def ask(method, url, **more):
    """Send one request without a key, and without the 40 ms that a TLS context takes."""
    return httpx.request(method, url, verify=False, trust_env=False, **more)


def dial(url):
    """Open a plain connection to an emulator."""
    parsed = httpx.URL(url)
    return socket.create_connection((parsed.host, parsed.port), timeout=10)


def multipart_head(length, name="big.bin", boundary="b"):
    """Return a request's head, up to the content of its part; `length` is of the whole body."""
    part = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return (
        "POST /v2/files/-/uploads HTTP/1.1\r\nHost: localhost\r\n"
        f"x-api-key: {KEY}\r\nContent-Type: multipart/form-data; boundary={boundary}\r\n"
        f"Content-Length: {length + len(part)}\r\n\r\n{part}"
    ).encode()


def read_answer(connection):
    """Read until the other side closes or a whole answer has arrived."""
    received = b""
    while piece := connection.recv(65_536):
        received += piece
        head, blank, body = received.partition(b"\r\n\r\n")
        length = next(
            (
                int(h.split(b":")[1])
                for h in head.split(b"\r\n")
                if h.lower().startswith(b"content-l")
            ),
            None,
        )
        if blank and length is not None and len(body) >= length:
            break
    return received

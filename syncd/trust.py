"""The certificates that TLS connections trust, and the one that they present."""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import certifi

from syncd.exceptions import ConfigError


class TlsFiles(NamedTuple):
    """The configured files for TLS; `client_cert` may contain its key as well."""

    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None


def tls_context(files: TlsFiles) -> ssl.SSLContext:
    """Return the context for `files`, the same one until a file changes.

    It trusts the public authorities and those in `ca_file`, whatever the environment says. Raise
    ConfigError when a file cannot be used.
    """
    return _made(files, tuple(_stamp(name, path) for name, path in files._asdict().items()))


def _stamp(name: str, path: Path | None) -> tuple[int, int, int] | None:
    if path is None:
        return None
    try:
        status = os.stat(path)  # noqa: PTH116 - takes a third of the time, for each request
    except OSError as error:
        raise ConfigError(f"{name} {path} cannot be used: {error.strerror}") from error
    return status.st_ino, status.st_mtime_ns, status.st_size


@lru_cache(maxsize=4)
def _made(files: TlsFiles, _stamps: tuple[tuple[int, int, int] | None, ...]) -> ssl.SSLContext:
    # Not ssl.create_default_context, which writes the session keys where SSLKEYLOGFILE says.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # We speak nothing else: a server that prefers HTTP/2 must not begin with it.
    context.set_alpn_protocols(["http/1.1"])
    # ca_file may contain just the intermediate that a server forgets to send, without its root.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cafile=certifi.where())
    if files.ca_file is not None:
        with _using(f"ca_file {files.ca_file}", "it must hold certificates in PEM form"):
            context.load_verify_locations(cafile=files.ca_file)
    if files.client_cert is not None:
        remedy = (
            "it must hold the certificate in PEM form, and client_key its key, without a password"
        )
        with _using(f"client_cert {files.client_cert}", remedy):
            # Without the argument `password`, OpenSSL would prompt for one on the terminal.
            context.load_cert_chain(files.client_cert, files.client_key, password="")
    return context


@contextmanager
def _using(what: str, remedy: str) -> Iterator[None]:
    """Raise ConfigError when a file cannot be used."""
    try:
        yield
    except ssl.SSLError as error:
        # str(error) would begin with a place in OpenSSL's source.
        reason = (error.reason or "invalid content").replace("_", " ").lower()
        raise ConfigError(f"{what} cannot be used: {reason}; {remedy}") from error
    except OSError as error:
        raise ConfigError(f"{what} cannot be used: {error.strerror}; {remedy}") from error

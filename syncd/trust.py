"""The certificates that a TLS connection trusts, and the one that it shows."""

import os
import ssl
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import certifi

from syncd.exceptions import ConfigError


class TlsFiles(NamedTuple):
    """The files for TLS that are configured; a `client_cert` may hold its key as well."""

    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None


def tls_context(files: TlsFiles) -> ssl.SSLContext:
    """Return the context for `files` as they are now: the same one until a file changes.

    It trusts the public authorities and those of `ca_file`; no environment variable has a say.
    Raise ConfigError where a file cannot be used.
    """
    return _made(files, tuple(_stamp(name, path) for name, path in files._asdict().items()))


def _stamp(name: str, path: Path | None) -> tuple[int, int, int] | None:
    if path is None:
        return None
    try:
        status = os.stat(path)  # noqa: PTH116 - a third of the time, and done for each request
    except OSError as error:
        raise ConfigError(f"{name} {path} cannot be used: {error.strerror}") from error
    return status.st_ino, status.st_mtime_ns, status.st_size


@lru_cache(maxsize=4)
def _made(files: TlsFiles, _stamps: tuple[tuple[int, int, int] | None, ...]) -> ssl.SSLContext:
    # Not ssl.create_default_context: it writes the keys to where SSLKEYLOGFILE says.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # All that we speak: a server that prefers HTTP/2 must not begin with it.
    context.set_alpn_protocols(["http/1.1"])
    # An intermediate that a server forgets to send can be named, without its root.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cafile=certifi.where())
    if files.ca_file is not None:
        try:
            context.load_verify_locations(cafile=files.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"ca_file {files.ca_file} cannot be used: {_reason(error)}; it must hold "
                "certificates in PEM form"
            ) from error
    if files.client_cert is not None:
        try:
            # Without a password here, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(files.client_cert, files.client_key, password="")
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"client_cert {files.client_cert} cannot be used: {_reason(error)}; it must hold "
                "the certificate in PEM form, and client_key its key, without a password"
            ) from error
    return context


def _reason(error: OSError) -> str:
    """Return what is wrong, without OpenSSL's place in its source."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or "no such content").replace("_", " ").lower()
    return error.strerror or str(error)

import os
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from files_api_server import KEY, Behaviour, RawServer

from syncd.files_api import FilesClient, UploadSource


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def serve(stack: ExitStack) -> Callable[..., RawServer]:
    def serve(behaviour: Behaviour, **options: Any) -> RawServer:
        return stack.enter_context(RawServer(behaviour, **options))

    return serve


@pytest.fixture
def client_of(stack: ExitStack) -> Callable[..., FilesClient]:
    def client_of(server: RawServer | str, **settings: Any) -> FilesClient:
        url = server if isinstance(server, str) else server.url
        settings = {"api_key": KEY, "timeout_seconds": 5, "allow_cleartext": True, **settings}
        return stack.enter_context(FilesClient(base_url=url, **settings))

    return client_of


@pytest.fixture
def source_of(stack: ExitStack, tmp_path: Path) -> Callable[..., UploadSource]:
    def source_of(content: bytes | int, **options: Any) -> UploadSource:
        path = tmp_path / "source"
        if isinstance(content, int):
            path.touch()
            os.truncate(path, content)
        else:
            path.write_bytes(content)
        file = stack.enter_context(path.open("rb"))
        return UploadSource(**{"fd": file.fileno(), "size": path.stat().st_size, **options})

    return source_of


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A self-signed certificate for 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=syncd test", "-keyout", key, "-out", cert]
    command += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:files.test"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl on this machine")
    return cert, key


@pytest.fixture
def tls(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context

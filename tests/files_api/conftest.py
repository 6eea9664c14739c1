import os
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

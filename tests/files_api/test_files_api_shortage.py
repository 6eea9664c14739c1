"""A process that is out of open files."""

import errno
import socket
import subprocess
import sys

import pytest

from syncd.files_api import FilesClient, NotSentError


def test_a_request_for_which_there_is_no_socket_was_certainly_not_sent(monkeypatch):
    def none_left(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socket", none_left)
    with (
        FilesClient(base_url="http://127.0.0.1:9", api_key="k" * 20) as client,
        pytest.raises(NotSentError, match="Too many open files"),
    ):
        client.list(limit=1)


@pytest.mark.row(50)
def test_the_first_request_fails_for_want_of_open_files_and_the_next_one_works():
    """Python loads a codec for host names on first use, and may take a failure for final."""
    code = """
import os, resource, sys
from syncd.files_api import FilesClient
client = FilesClient(base_url=sys.argv[1], api_key="k" * 20, timeout_seconds=1)
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
os.close(next_free := os.dup(0))
for limit in (next_free, soft):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        client.list(limit=1)
    except Exception as error:
        print(type(error).__name__, error)
"""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        told = subprocess.run(
            [sys.executable, "-c", code, url],
            check=True,
            capture_output=True,
            text=True,
            timeout=50,
        )
    first, second = told.stdout.splitlines()
    assert first.startswith("NotSentError")
    assert "Too many open files" in first
    assert "cannot resolve" not in first
    assert second.startswith("InDoubtError")

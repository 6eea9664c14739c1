import errno
import socket

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

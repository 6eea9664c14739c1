"""Access to the emulator by strangers, and the addresses that it fetches from."""

import os
import time

import httpx
import pytest

from syncd.emulator import Emulator


def ask(caller, path, **headers):
    return httpx.get(caller.emulator.url + path, headers=headers).status_code


@pytest.mark.long
@pytest.mark.row(58)
def test_control_paths_accept_an_address_or_localhost_or_the_key(run):
    caller = run(api_key="k")
    for path in ("/_emulator/objects", "/_emulator/faults"):
        assert ask(caller, path) == 200
        assert ask(caller, path, Host="localhost:1") == 200
        assert ask(caller, path, Host="[::1]:1") == 200
        assert ask(caller, path, Host="evil.example") == 403
        assert ask(caller, path, Host="evil.example", **{"x-api-key": "wrong"}) == 403
        assert ask(caller, path, Host="emulator", **{"x-api-key": "k"}) == 200
    faults = httpx.put(
        caller.emulator.url + "/_emulator/faults", json=[], headers={"Host": "evil.example"}
    )
    assert faults.status_code == 403


@pytest.mark.row(58)
def test_control_paths_need_the_key_off_loopback(run):
    caller = run(api_key="k", host="0.0.0.0")
    caller.emulator.url = caller.emulator.url.replace("0.0.0.0", "127.0.0.1")
    for path in ("/_emulator/objects", "/_emulator/requests", "/_emulator/faults"):
        assert ask(caller, path) == 401
        assert ask(caller, path, **{"x-api-key": "wrong"}) == 401
        assert ask(caller, path, **{"x-api-key": "k"}) == 200
    faults = httpx.put(caller.emulator.url + "/_emulator/faults", json=[])
    assert faults.status_code == 401
    assert ask(caller, "/_emulator/health") == 200


@pytest.mark.row(57)
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_listening_off_loopback_takes_a_key(tmp_path, host):
    with pytest.raises(ValueError, match="the emulator needs a key"):
        Emulator(data=tmp_path, host=host)
    Emulator(data=tmp_path, host=host, api_key="k")


@pytest.mark.row(54)
def test_only_the_owner_can_read_the_data(run, tmp_path):
    before = os.umask(0)
    try:
        caller = run(data=tmp_path / "kept")
        caller.upload()
        assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o700
        files = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
        assert len(files) > 4
        assert {path.name: oct(path.stat().st_mode & 0o077) for path in files} == {
            path.name: "0o0" for path in files
        }
    finally:
        os.umask(before)


@pytest.mark.row(59)
@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "169.254.169.254"]
)
def test_private_addresses_are_fetched_only_with_private_uris(run, host):
    caller = run(private_uris=False, api_key="k")
    port = caller.emulator.url.rpartition(":")[2]
    uri = f"http://{host}:{port}/_emulator/health"
    files = [{"remote_uri": uri}]
    made = httpx.post(
        caller.emulator.url + "/v2/files", json={"files": files}, headers={"x-api-key": "k"}
    ).json()
    uuid = made["files"][0]["file_uuid"]
    until = time.monotonic() + 20
    while True:
        told = httpx.get(
            f"{caller.emulator.url}/v2/files/{uuid}/status", headers={"x-api-key": "k"}
        ).json()
        if told["processing_status"] == "failed" or time.monotonic() > until:
            break
        time.sleep(0.05)
    assert "address; --private-uris allows that" in told["error_message"]

"""The asynchronous client, beyond the contract that it shares with the other one."""

import asyncio
import gc
import threading
import time

import pytest
from files_api_server import KEY

from syncd.emulator import Emulator
from syncd.exceptions import ConfigError
from syncd.files_api import AsyncFilesClient, NewFile, NotSentError
from syncd.files_api.operations import list_files


@pytest.fixture
def emulator(tmp_path):
    with Emulator(data=tmp_path / "data", api_key=KEY) as running:
        yield running


def run(emulator, use, **settings):
    async def main():
        async with AsyncFilesClient(base_url=emulator.url, api_key=KEY, **settings) as client:
            return await use(client)

    return asyncio.run(main())


def test_many_calls_run_at_once_and_no_more_than_allowed(emulator, source_of):
    under_way, most = set(), []

    async def use(client):
        def enter(_digest):
            under_way.add(threading.get_ident())
            most.append(len(under_way))
            time.sleep(0.02)
            under_way.discard(threading.get_ident())

        source = source_of(b"x", before_last=enter)
        send = [client.upload(source, name=f"{n}", content_type="text/plain") for n in range(20)]
        await asyncio.gather(*send)
        return await client.list()

    assert run(emulator, use, at_once=4).count == 20
    assert 1 < max(most) <= 4


def test_a_listing_may_be_worked_on_while_it_is_read_even_with_one_place(emulator):
    async def use(client):
        await client.create([NewFile(local_file_path=f"{n}") for n in range(150)])
        seen = [await client.get(file.file_uuid) async for file in client.list_all(limit=60)]
        return {file.file_uuid for file in seen}

    assert len(run(emulator, use, at_once=1)) == 150


def test_a_call_that_is_cancelled_is_cut_off_and_stores_nothing(emulator, source_of):
    begun = threading.Event()

    async def use(client):
        def hang(_sent):
            begun.set()
            time.sleep(0.05)

        source = source_of(8 << 20, progress=hang)
        task = asyncio.create_task(client.upload(source, name="a", content_type="text/plain"))
        await asyncio.to_thread(begun.wait, 10)
        task.cancel()
        began = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        # Within a second, and not when all 32 chunks are sent.
        assert time.monotonic() - began < 1.2
        return await client.list()

    assert run(emulator, use, at_once=2).count == 0


async def cancel_twice(task):
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0.01)
    await task


async def time_out_in_a_cancelled_group(task):
    async with asyncio.TaskGroup() as group:

        async def wait():
            async with asyncio.timeout(0.02):
                await task

        group.create_task(wait())
        await asyncio.sleep(0.03)
        raise asyncio.CancelledError


@pytest.mark.parametrize("interrupt", [cancel_twice, time_out_in_a_cancelled_group])
def test_a_call_that_is_cancelled_again_ends_before_its_task(
    emulator, source_of, caplog, interrupt
):
    on_thread, sending = [], threading.Event()

    async def use(client):
        def hang(_sent):
            on_thread.append("call")
            sending.set()
            time.sleep(0.2)
            on_thread.remove("call")

        source = source_of(8 << 20, progress=hang)
        task = asyncio.create_task(client.upload(source, name="a", content_type="text/plain"))
        await asyncio.to_thread(sending.wait, 10)
        with pytest.raises(asyncio.CancelledError):
            await interrupt(task)
        assert on_thread == []
        assert task.cancelled()
        return await client.list()

    assert run(emulator, use, at_once=1).count == 0
    gc.collect()
    assert [record for record in caplog.records if record.name == "asyncio"] == []


def test_a_raw_answer_is_shown_whatever_its_status(emulator):
    async def use(client):
        return await client.send(list_files(limit=0))

    answer = run(emulator, use)
    assert (answer.status, answer.request_id[:4]) == (422, "req_")


def test_a_body_is_handed_on_as_it_comes(emulator, source_of):
    async def use(client):
        stored = await client.upload(source_of(3 << 20), name="a", content_type="text/plain")
        pieces = []
        await client.download(stored.file_url, pieces.append)
        return [len(piece) for piece in pieces]

    lengths = run(emulator, use)
    assert sum(lengths) == 3 << 20
    assert len(lengths) > 3


def test_a_wrong_setting_is_refused_when_the_client_is_made():
    with pytest.raises(ConfigError, match="base URL"):
        AsyncFilesClient(base_url="nonsense", api_key=KEY)


def test_an_error_tells_what_that_of_the_other_client_tells(emulator):
    emulator.stop()

    async def use(client):
        await client.list()

    with pytest.raises(NotSentError) as caught:
        run(emulator, use)
    assert caught.value.code == "local.connect"

"""`fetch`: URLs that the service fetches by itself."""

import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import click

from syncd.cli.control import ask, load_without_folders
from syncd.cli.lines import complain, print_json
from syncd.cli.options import Options, common, pass_options
from syncd.cli.repair import with_progress
from syncd.clients import make_client
from syncd.commands import fetch_urls
from syncd.components import opened_store
from syncd.config.loading import Config
from syncd.exceptions import SyncdError
from syncd.files_api import StopFlag
from syncd.files_api.base_url import http_url
from syncd.files_api.redaction import Secrets
from syncd.log import printable
from syncd.state.backoff import poll_seconds
from syncd.units import clock
from syncd.workers.gate import Gate

JsonObject = dict[str, Any]
#: The most characters of a URL, and the most URLs of a call.
MOST_CHARS, MOST_URLS = 8000, 1000
#: The pauses between two looks at what is processed, in seconds.
FIRST_LOOK_SECONDS, LONGEST_LOOK_SECONDS = 1.0, 30.0
#: Looks that fail one after another before waiting is given up.
MOST_FAILURES = 20
_ENDED = ("completed", "failed")
_scrub = Secrets().shown


@click.command()
@click.argument("urls", metavar="URL...", nargs=-1, required=True)
@click.option("--wait", is_flag=True, help="Wait until each of them is processed.")
@click.option(
    "--again",
    is_flag=True,
    help="Fetch them though they were fetched before, or may have been: they may be there twice.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON Lines: one object a URL.")
@common
@pass_options
def fetch(
    options: Options, urls: tuple[str, ...], *, wait: bool, again: bool, as_json: bool
) -> int:
    """Have the service fetch each URL by itself; print uuid, status and URL of each.

    In place of URLs, - reads them from standard input, one a line. A URL that was fetched within
    the last 30 days is not fetched again; one whose request got no answer is looked for first.
    What is fetched belongs to no watch folder, and syncd never deletes it. Exits with 1 if a URL
    could not be registered or, with --wait, if its processing failed.
    """
    asked = [_checked(number, url) for number, url in enumerate(_given(urls), start=1)]
    arguments = {"urls": asked, "again": again}
    alone = partial(_alone, options)
    files = with_progress(options, "fetch", arguments, alone=alone)["files"]
    _tell_known(asked, files)
    if wait:
        _wait(options, files)
    for url, file in zip(asked, files, strict=True):
        _show(url, file, as_json=as_json)
    return 1 if any(file.get("error") for file in files) else 0


def _alone(options: Options, _: Config, arguments: JsonObject) -> Iterator[JsonObject]:
    """Carry it out without a daemon; no folder has to be configured."""
    config = load_without_folders(options)
    workspace, remedy = config.api.workspace_uuid, config.credentials.remedy
    with opened_store(config) as store, make_client(config, StopFlag()) as client:
        gate = Gate(store=store, clock=time.time, monotonic=time.monotonic, key_remedy=remedy)
        yield from fetch_urls(store, client, gate, workspace, arguments)


def _given(urls: Sequence[str]) -> list[str]:
    given = [line.strip() for line in sys.stdin or ()] if tuple(urls) == ("-",) else list(urls)
    found = list(dict.fromkeys(filter(None, given)))
    if not 1 <= len(found) <= MOST_URLS:
        raise click.UsageError(f"give 1 to {MOST_URLS:,} URLs, and not {len(found):,}")
    return found


def _checked(number: int, url: str) -> str:
    """Return a URL that a service can fetch; UsageError otherwise, which does not show it."""
    parsed = http_url(url) if len(url) <= MOST_CHARS and url.isprintable() else None
    if parsed is None or " " in url:
        raise click.UsageError(f"URL {number} must look like https://host/path")
    if parsed.userinfo:
        raise click.UsageError(
            f"URL {number} ({_bare(url)}) has a user or a password in it, which the service would "
            "keep and show: give a URL without"
        )
    return url


def _bare(url: str) -> str:
    """Return a URL without user, query and fragment, in which secrets stand."""
    parts = urlsplit(url)
    return printable(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}")


def _tell_known(urls: Sequence[str], files: Sequence[JsonObject]) -> None:
    for url, file in zip(urls, files, strict=True):
        if since := file.get("known_since"):
            complain(
                f"{_bare(url)} was asked for at {clock(since)} already, and is not fetched again "
                "(--again does)"
            )


def _wait(options: Options, files: Sequence[JsonObject]) -> None:
    """Look at what is processed until all of it has come to its end; note that in `files`."""
    looks = failures = 0
    while waiting := [
        file
        for file in files
        if file["file_uuid"] and not file.get("error") and file["processing_status"] not in _ENDED
    ]:
        time.sleep(poll_seconds(looks, first=FIRST_LOOK_SECONDS, longest=LONGEST_LOOK_SECONDS))
        looks += 1
        try:
            told = ask(options, "processing", {"file_uuids": [f["file_uuid"] for f in waiting]})
        except SyncdError as error:
            failures += 1
            if error.exit_code != SyncdError.exit_code or failures >= MOST_FAILURES:
                raise
            continue
        failures = 0
        for file in waiting:
            file.update(told["files"].get(file["file_uuid"], {}))
    for file in files:
        if file["processing_status"] == "failed" and not file.get("error"):
            file["error"] = "the service could not process it"


def _show(url: str, file: JsonObject, *, as_json: bool) -> None:
    error = _scrub(file["error"]) if file.get("error") else None
    if as_json:
        print_json(
            {
                "url": _bare(url),
                "file_uuid": file["file_uuid"],
                "processing_status": file["processing_status"],
                "known": "known_since" in file,
                "error": error,
            }
        )
    elif file["file_uuid"]:
        status = printable(file["processing_status"])
        sys.stdout.write(f"{file['file_uuid']}  {status:<10}  {_bare(url)}\n")
    if error and not as_json:
        complain(f"{_bare(url)}: {error}")

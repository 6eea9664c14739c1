"""`frames`: the frames of a synced video, listed or downloaded."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from syncd.cli.control import ask, base_url
from syncd.cli.lines import complain, print_json
from syncd.cli.options import Options, common, pass_options
from syncd.cli.selection import arguments
from syncd.clients import make_storage_client
from syncd.config.locations import current_directory
from syncd.files_api import is_uuid
from syncd.frames.directory import FramesError, opened
from syncd.frames.download import Download, FrameOutcome, FrameUrls
from syncd.log import printable
from syncd.offers import offered
from syncd.report import folder_paths
from syncd.state import stories, views
from syncd.state.database.store import Transaction
from syncd.state.manifest import Word
from syncd.state.texts import argument
from syncd.units import counted, parse_bytes, size

JsonObject = dict[str, Any]
#: More frames than this are a mistake of the service's.
MOST_FRAMES = 200_000
#: Failures that are shown; `--json` has them all.
SHOWN = 5
#: The most characters of a URL that are shown.
_URL_CHARS = 2000
_WAITING = (Word.SETTLING, Word.QUEUED, Word.UPLOADING, Word.PROCESSING)


def _bytes(_ctx: click.Context, _parameter: click.Parameter, value: str) -> int:
    try:
        return parse_bytes(value)
    except ValueError as error:
        raise click.BadParameter(f"{printable(value)!r} {error}") from error


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--download",
    "into",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Download them into DIR, as frame-000001.jpg and so on. What is there is not downloaded "
    "again.",
)
@click.option(
    "--max-size",
    "most_bytes",
    metavar="SIZE",
    default="20GiB",
    show_default=True,
    callback=_bytes,
    help="The most that is downloaded in one call.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON Lines: one object a frame.")
@common
@pass_options
def frames(
    options: Options, path: Path, *, into: Path | None, most_bytes: int, as_json: bool
) -> int:
    """List the frames of the synced video PATH: number, and URL without its signature.

    PATH is absolute, or relative to here or to its watch folder; or the uuid of a video, such as
    `syncd fetch` prints. Exits with 1 if PATH is no synced video, or if a frame could not be
    downloaded; call it again to go on.
    """
    config = options.look() if into is None else options.load(to_sync=False)
    directory = config.state.directory
    known = views.read(directory, lambda db: folder_paths.folders(config, db))
    if into is not None:
        _refuse_watched(into, known)
    file_uuid = views.read(directory, lambda db: _video(path, known, db))
    count = 0

    def urls() -> list[str]:
        nonlocal count
        answer = ask(options, "frames", {"file_uuid": file_uuid})
        count = answer["count"]
        if len(answer["urls"]) > MOST_FRAMES:
            raise FramesError(f"the service tells more than {MOST_FRAMES:,} frames")
        return list(answer["urls"])

    listed = FrameUrls(urls)
    if into is None:
        _list(listed, as_json=as_json)
        failed = 0
    else:
        make_client = partial(
            make_storage_client, config, base_url=base_url(directory) or config.api.base_url
        )
        with opened(into, file_uuid) as frame_directory:
            download = Download(listed, frame_directory, make_client, most_bytes)
            failed = _download(download, into, as_json=as_json)
    if count != len(listed):
        shown = printable(str(path))
        complain(f"the service tells URLs of {len(listed):,} of the {count:,} frames of {shown}")
    return 1 if failed or count != len(listed) else 0


def _video(path: Path, known: Sequence[folder_paths.KnownFolder], db: Transaction) -> str:
    """Return the uuid of a synced video, or that is given itself; FramesError if it is none."""
    shown = printable(str(path))
    (meant,) = arguments([path], known, db, current_directory())
    story = meant.place and stories.story(db, meant.place.folder, meant.place.path)
    if not story and is_uuid(str(path)):
        return str(path)
    if path.is_dir():
        raise FramesError(f"{shown} is a directory: name one video")
    if not story:
        raise FramesError(offered(f"syncd knows no file {shown} (syncd why tells more)"))
    if problem := _problem(story):
        ask_why = f"syncd why {argument(os.fsencode(path))}"
        raise FramesError(offered(f"{shown} {problem} ({ask_why})"))
    return str(story["file_uuid"])


def _problem(story: JsonObject) -> str:
    """Say why there are no frames of a file; empty where there are."""
    newest = story["copies"][-1] if story["copies"] else {}
    kind = story["content_type"] or newest.get("content_type")
    if kind and not kind.startswith("video/"):
        return f"is {kind}, and no video"
    status = story["status"]
    if status in _WAITING:
        return f"is {status}: its frames are there once it is synced"
    if status == Word.FAILED:
        return f"has no frames, for it failed: {story['error']}"
    return "" if story["file_uuid"] else f"is {status}: it has no frames at the service"


def _refuse_watched(into: Path, known: Sequence[folder_paths.KnownFolder]) -> None:
    """Raise UsageError where what is downloaded would be uploaded again."""
    target = os.path.realpath(os.fsencode(into))
    for folder in known:
        root = os.path.realpath(folder.root)
        if os.path.commonpath((root, target)) == root:
            raise click.UsageError(
                f"{printable(str(into))} lies in the watch folder {printable(folder.root)}, "
                "and the frames would be uploaded: give a directory outside"
            )


def _list(urls: FrameUrls, *, as_json: bool) -> None:
    if sys.stdout.isatty() and not as_json:
        click.echo(f"{'NUMBER':>6}  URL (its signature is left out)")
    for number in range(1, len(urls) + 1):
        url = _bare(urls.of(number))
        if as_json:
            print_json({"number": number, "url": url})
        else:
            sys.stdout.write(f"{number:>6}  {url}\n")


def _bare(url: str) -> str:
    """Return a presigned URL without user, query and fragment, printable."""
    try:
        parts = urlsplit(url[:_URL_CHARS])
    except ValueError:
        return "(not a URL)"
    host = parts.netloc.rpartition("@")[2]
    return printable(f"{parts.scheme}://{host}{parts.path}")


def _download(download: Download, into: Path, *, as_json: bool) -> int:
    """Download frames and tell each one's end; return how many are not there."""
    whole = new = 0
    errors: list[str] = []
    with _progress(len(download.urls)) as show:
        for outcome in download.run():
            if outcome.kept is None:
                errors.append(f"frame {outcome.number}: {outcome.error}")
            whole += outcome.kept is not None
            new += outcome.kept is not None and not outcome.was_there
            if as_json:
                print_json(_as_json(outcome, download, into))
            show(whole + len(errors))
    failed = len(download.urls) - whole
    for error in errors[:SHOWN]:
        complain(error)
    shown = printable(str(into))
    if failed:
        complain(
            f"{counted(failed, 'frame')} of {len(download.urls):,} could not be downloaded; the "
            f"same call goes on from here"
        )
    if not as_json:
        there = f", {whole - new:,} of them already there" if whole - new else ""
        total = sum(kept.size for kept in download.directory.kept.values())
        click.echo(f"{counted(whole, 'frame')} in {shown} ({size(total)}){there}")
    return failed


def _as_json(outcome: FrameOutcome, download: Download, into: Path) -> JsonObject:
    told: JsonObject = {"number": outcome.number, "url": _bare(download.urls.of(outcome.number))}
    if outcome.kept is None:
        return told | {"file": None, "error": outcome.error}
    file = printable(str(into / outcome.kept.name))
    return told | {"file": file, "size": outcome.kept.size, "downloaded": not outcome.was_there}


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Yield what shows how many frames are done; only a terminal shows it."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415 - for a terminal alone
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("frames", total=total)
        yield lambda done: progress.update(task, completed=done)

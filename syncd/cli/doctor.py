"""The command that examines: `doctor`."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import click

from syncd.cli.lines import folded, print_json
from syncd.cli.options import Options, common, pass_options
from syncd.cli.repair import with_progress
from syncd.cli.service_user import become
from syncd.cli.sync import directories_argument
from syncd.config.loading import Config
from syncd.exceptions import ConfigError, SyncdError
from syncd.report import doctor as examination
from syncd.report.doctor_state import kinds
from syncd.report.findings import Finding, bad, exit_code, unchecked
from syncd.state import views
from syncd.state.texts import argument
from syncd.units import counted, span
from syncd.workers.service_probe import VIDEO_SECONDS

JsonObject = dict[str, Any]
_MARKS = {True: ("good", "green"), False: ("bad ", "red"), None: ("open", "yellow")}
_ORDER = {
    "newest": "newest first: few pages are read to find an upload",
    "oldest": "oldest first: it is read from its end to find an upload",
    "none": "in no order of time: all of it is read to find an upload",
}
_SIZES = {
    "record": "in records: an upload is checked by them",
    "url": "by download URLs alone: an upload is checked by those",
}
#: The facts of a probe.
_NAMES = {
    "echo": "names",
    "order": "order",
    "list_seconds": "listing",
    "page_cap": "pages",
    "sizes": "sizes",
    "put_needs_type": "content type",
    "url_seconds": "URL lifetime",
    "video_status": "video",
    "video_frames": "frames",
    "video_metadata": "metadata",
    "second_delete": "second DELETE",
}


@click.command()
@directories_argument
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.option(
    "--probe",
    is_flag=True,
    help="Also show what the service does, by tiny objects that are deleted within a minute.",
)
@click.option(
    "--user",
    metavar="NAME",
    help="As root: examine as the service's user; else as the owner of the state.",
)
@common
@pass_options
def doctor(
    options: Options, directories: tuple[Path, ...], *, as_json: bool, probe: bool, user: str | None
) -> int:
    """Examine what syncd needs: configuration, key, clock, state, folders, limits.

    Each DIR is a folder to examine, in place of those of the configuration file.

    Run by root, it gives up root's rights and examines as the service's user: the owner of the
    state, or --user NAME.

    Each line is good, or bad with what would mend it, or open: not checked, and why. Without
    --probe it changes nothing, and makes one cheap call to the service. Exits with 0 when nothing
    is bad, 77 when the key is refused, 78 when the configuration or the state cannot be used, else
    with 1.
    """
    found: list[Finding] = []
    examined = examination.examine(_loaded(options, directories))
    asked_as = _service_user(options, user)
    more = chain(_named_elsewhere(options, found), _probed(options, found) if probe else ())
    for finding in chain(asked_as, examined, more):
        found.append(finding)
        if not as_json:
            _tell(finding)
    code = exit_code(found)
    if as_json:
        checks = [
            {key: value for key, value in asdict(finding).items() if key != "code"}
            for finding in found
        ]
        print_json({"well": code == 0, "checks": checks}, indent=2)
    return code


def _loaded(options: Options, directories: tuple[Path, ...]) -> Callable[[list[str]], Config]:
    """Load the configuration as who asks, for the service's key may be handed to it by root."""
    problems: list[str] = []
    try:
        config = options.load(directories=directories, to_sync=True, problems=problems)
    except ConfigError as error:
        wrong = error

        def fail(_: list[str]) -> Config:
            raise wrong

        return fail

    def give(noted: list[str]) -> Config:
        noted += problems
        return config

    return give


def _service_user(options: Options, name: str | None) -> list[Finding]:
    """Become the service's user, where root asks; return who that is."""
    if name is not None and os.geteuid() != 0:
        raise click.UsageError("--user is for root: ask as that user")
    try:
        directory = options.glance().state_directory
    except SyncdError:
        # The examination says what is wrong with the configuration.
        return []
    try:
        found = become(directory, name)
    except KeyError as error:
        raise click.UsageError(f"there is no user {name!r} on this machine") from error
    return [found] if found else []


def _named_elsewhere(options: Options, found: list[Finding]) -> Iterator[Finding]:
    """Say how to examine the folders that only the command line of a pass has named."""
    if any(finding.text.startswith("no folder to watch") for finding in found):
        with suppress(SyncdError):
            roots = views.read(options.glance().state_directory, views.roots).values()
            named = " ".join(argument(root) for root in roots)
            text = f"none is configured; to check those of the last pass: syncd doctor {named}"
            yield unchecked("folders", text)


def _probed(options: Options, found: list[Finding]) -> Iterator[Finding]:
    """Yield what a probe shows; nothing is sent where the key or the configuration is refused."""
    if exit_code(found) > 1:
        yield bad("probe", "not made", "first mend what is bad above")
        return
    try:
        result = with_progress(options, "probe", {})
    except SyncdError as error:
        code = error.exit_code if error.exit_code > SyncdError.exit_code else 1
        yield bad("probe", str(error), "then try again: syncd doctor --probe", code)
        return
    facts = result["facts"]
    for text in _texts(facts):
        yield Finding("probe", good=True, text=text)
    for name, why in facts["unseen"].items():
        yield unchecked(_NAMES[name], why)
    if facts["video_status"] not in (None, "completed"):
        yield bad(
            "probe",
            f"a video of one second is {facts['video_status']} after {VIDEO_SECONDS:g} s",
            "ask the service's owners; syncd waits for videos meanwhile",
        )
    if left := result["left"]:
        yield bad(
            "probe",
            f"{counted(len(left), 'object')} may be there still: {', '.join(left)}",
            "the daemon deletes them while it runs, or the next probe: syncd doctor --probe",
        )


def _texts(facts: JsonObject) -> Iterator[str]:
    """Say what the service does, and what follows from it."""
    echo = facts["echo"] or {}
    echoing = [kind for kind, how in echo.items() if how != "none"]
    lacking = [kind for kind, how in echo.items() if how == "none"]
    if echoing:
        part = "whole" if "path" in echo.values() else "by its last part"
        which = f" ({kinds(echoing)})" if lacking else ""
        yield f"a sent name comes back {part}{which}: an upload that gets no answer is found by it"
    if lacking:
        which = f" ({kinds(lacking)})" if echoing else ""
        yield (
            f"a sent name does not come back{which}: files are sent presigned, so that a lost "
            "answer costs an empty record and no second copy"
        )
    if (order := facts["order"]) is not None:
        yield f"the listing is {_ORDER[order]}"
    if (seconds := facts["list_seconds"]) is not None:
        yield f"a page of the listing took {seconds} s"
    if (most := facts["page_cap"]) is not None and facts["refuses_limit"]:
        yield f"pages of more than {most} files are refused: syncd asks for fewer"
    elif most is not None:
        yield f"a page has {most} files at most: syncd reads on"
    if (sizes := facts["sizes"]) is not None:
        yield f"sizes are told {_SIZES[sizes]}"
    if (must := facts["put_needs_type"]) is not None:
        verb = "must" if must else "need not"
        yield f"a presigned PUT {verb} repeat the content type: syncd does"
    if (seconds := facts["url_seconds"]) is not None:
        yield f"a presigned URL is valid for {span(seconds)}: syncd then asks for another"
    if (frames := facts["video_frames"]) is not None:
        yield f"a processed video has {counted(frames, 'frame')}"
    if (has := facts["video_metadata"]) is not None:
        yield f"a processed video has {'metadata' if has else 'no metadata'}"
    if (status := facts["second_delete"]) is not None:
        yield f"a second DELETE is answered with {status}: syncd takes it for deleted"


def _tell(finding: Finding) -> None:
    mark, colour = _MARKS[finding.good]
    line = folded(f"{mark}  {finding.name}: {finding.text}", sys.stdout, indent=6)
    click.echo(click.style(mark, fg=colour) + line.removeprefix(mark))
    if finding.fix:
        click.echo(folded(f"      -> {finding.fix}", sys.stdout, indent=9))

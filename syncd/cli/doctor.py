"""The command that examines: `doctor`."""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from typing import Any

import click

from syncd import doctor as examination
from syncd.cli.lines import folded, print_json
from syncd.cli.options import Options, common, pass_options
from syncd.cli.repair import with_progress
from syncd.doctor import Finding, bad, exit_code
from syncd.exceptions import SyncdError
from syncd.units import counted, span
from syncd.workers.service_probe import VIDEO_SECONDS

JsonObject = dict[str, Any]
_ECHO = {"path": "whole", "name": "as its last segment", "none": "not at all"}
_ORDER = {"newest": "newest first", "oldest": "oldest first", "none": "in no order of time"}
_SIZES = {"record": "in records", "url": "by the download URL alone"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.option(
    "--probe",
    is_flag=True,
    help="Also show what the service does, by tiny objects that are deleted within a minute.",
)
@common
@pass_options
def doctor(options: Options, *, as_json: bool, probe: bool) -> int:
    """Examine what syncd needs: configuration, key, clock, state, folders, limits.

    Each line is good or bad, and says what would mend it. Without --probe it changes nothing, and
    makes one cheap call to the service. Exits with 0 when all is good, 77 when the key is refused,
    78 when the configuration or the state cannot be used, else with 1.
    """
    found: list[Finding] = []
    examined = examination.examine(lambda noted: options.load(to_sync=True, problems=noted))
    for finding in chain(examined, _probed(options, found) if probe else ()):
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
    for name, text in _told(facts).items():
        why = facts["unseen"].get(name, "")
        if facts[name] is not None:
            yield Finding("probe", good=True, text=text)
        if why or facts[name] is None:
            yield Finding("probe", good=True, text=f"{_NAMES[name]} not seen: {why}")
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
            "the running daemon deletes them, or the next probe: syncd doctor --probe",
        )


#: By fact; what is only seen in part is named, too.
_NAMES = {
    "echo": "how each sent name comes back is",
    "order": "the order of the listing is",
    "list_seconds": "the time a page takes is",
    "page_cap": "the longest page is",
    "sizes": "where sizes are told is",
    "put_needs_type": "whether a presigned PUT must repeat the content type is",
    "url_seconds": "how long a presigned URL is valid is",
    "video_status": "the processing of a video is",
    "video_frames": "how many frames a video has is",
    "video_metadata": "the metadata of a video is",
    "second_delete": "the answer to a second DELETE is",
}


def _told(facts: JsonObject) -> dict[str, str]:
    """Say what the service does, by fact; the text of one that was not seen says nothing."""
    echo = facts["echo"] or {}
    ways = dict.fromkeys(echo.values())
    kinds = {how: "; ".join(kind for kind, known in echo.items() if known == how) for how in ways}
    verb = "refuses" if facts["refuses_limit"] else "shortens"
    needs = "must" if facts["put_needs_type"] else "need not"
    has = "has" if facts["video_metadata"] else "has no"
    return {
        "echo": ", ".join(f"a sent name comes back {_ECHO[how]} ({kinds[how]})" for how in kinds),
        "order": f"the listing is {_ORDER.get(facts['order'])}",
        "list_seconds": f"a page took {facts['list_seconds']} s",
        "page_cap": f"it {verb} pages of more than {facts['page_cap']} files",
        "sizes": f"sizes are told {_SIZES.get(facts['sizes'])}",
        "put_needs_type": f"a presigned PUT {needs} repeat the content type",
        "url_seconds": f"a presigned URL is valid for {span(facts['url_seconds'] or 0)}",
        "video_status": f"a video is {facts['video_status']}",
        "video_frames": f"a video has {facts['video_frames']} frames",
        "video_metadata": f"a video {has} metadata",
        "second_delete": f"a second DELETE is answered with {facts['second_delete']}",
    }


def _tell(finding: Finding) -> None:
    mark, colour = ("good", "green") if finding.good else ("bad ", "red")
    line = folded(f"{mark}  {finding.name}: {finding.text}", sys.stdout, indent=6)
    click.echo(click.style(mark, fg=colour) + line.removeprefix(mark))
    if finding.fix:
        click.echo(folded(f"      -> {finding.fix}", sys.stdout, indent=9))

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
from syncd.doctor import Finding, bad, exit_code, unchecked
from syncd.exceptions import SyncdError
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

    Each line is good, or bad with what would mend it, or open: not checked, and why. Without
    --probe it changes nothing, and makes one cheap call to the service. Exits with 0 when nothing
    is bad, 77 when the key is refused, 78 when the configuration or the state cannot be used, else
    with 1.
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
        which = f" ({examination.kinds(echoing)})" if lacking else ""
        yield f"a sent name comes back {part}{which}: an upload that gets no answer is found by it"
    if lacking:
        which = f" ({examination.kinds(lacking)})" if echoing else ""
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

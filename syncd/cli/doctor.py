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
from syncd.workers.service_probe import VIDEO_SECONDS

JsonObject = dict[str, Any]
_ECHO = {"path": "whole", "name": "as its last segment", "none": "not at all"}
_ORDER = {"newest": "newest first", "oldest": "oldest first", "none": "in no order of time"}
_SIZES = {"record": "in records", "url": "by the download URL alone", "none": "nowhere"}


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
        facts = with_progress(options, "probe", {})["facts"]
    except SyncdError as error:
        code = error.exit_code if error.exit_code > SyncdError.exit_code else 1
        fix = "what it made is deleted, or will be by the next one; then try again"
        yield bad("probe", str(error), fix, code)
        return
    for text in _told(facts):
        yield Finding("probe", good=True, text=text)
    if facts["video_status"] != "completed":
        yield bad(
            "probe",
            f"a video of one second is {facts['video_status']} after {VIDEO_SECONDS:g} s",
            "ask the service's owners; syncd waits for videos meanwhile",
        )


def _told(facts: JsonObject) -> Iterator[str]:
    """Say what the service does."""
    for how in dict.fromkeys(facts["echo"].values()):
        kinds = "; ".join(kind for kind, known in facts["echo"].items() if known == how)
        yield f"a sent name comes back {_ECHO[how]} ({kinds})"
    yield f"the listing is {_ORDER[facts['order']]}; a page took {facts['list_seconds']} s"
    if facts["page_cap"] is None:
        yield "no page was too long for it"
    else:
        verb = "refuses" if facts["refuses_limit"] else "shortens"
        yield f"it {verb} pages of more than {facts['page_cap']} files"
    yield f"sizes are told {_SIZES[facts['sizes']]}"
    needs = "must" if facts["put_needs_type"] else "need not"
    yield f"a presigned PUT {needs} repeat the content type"
    if (seconds := facts["url_seconds"]) is not None:
        yield f"a presigned URL is valid for {seconds:.0f} s"
    told = "with" if facts["video_metadata"] else "without"
    yield f"a video is {facts['video_status']}, {facts['video_frames']} frames, {told} metadata"
    yield f"a second DELETE is answered with {facts['second_delete']}"


def _tell(finding: Finding) -> None:
    mark, colour = ("good", "green") if finding.good else ("bad ", "red")
    line = folded(f"{mark}  {finding.name}: {finding.text}", sys.stdout, indent=6)
    click.echo(click.style(mark, fg=colour) + line.removeprefix(mark))
    if finding.fix:
        click.echo(folded(f"      -> {finding.fix}", sys.stdout, indent=9))

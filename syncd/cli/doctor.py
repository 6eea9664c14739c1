"""The command that examines: `doctor`."""

import sys
from dataclasses import asdict

import click

from syncd import doctor as examination
from syncd.cli.lines import folded, print_json
from syncd.cli.options import Options, common, pass_options
from syncd.doctor import Finding, exit_code


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@common
@pass_options
def doctor(options: Options, *, as_json: bool) -> int:
    """Examine what syncd needs: configuration, key, clock, state, folders, limits.

    Each line is good or bad, and says what would mend it. It changes nothing, and makes one cheap
    call to the service. Exits with 0 when all is good, 77 when the key is refused, 78 when the
    configuration or the state cannot be used, else with 1.
    """
    found: list[Finding] = []
    for finding in examination.examine(lambda noted: options.load(to_sync=True, problems=noted)):
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


def _tell(finding: Finding) -> None:
    mark, colour = ("good", "green") if finding.good else ("bad ", "red")
    line = folded(f"{mark}  {finding.name}: {finding.text}", sys.stdout, indent=6)
    click.echo(click.style(mark, fg=colour) + line.removeprefix(mark))
    if finding.fix:
        click.echo(folded(f"      -> {finding.fix}", sys.stdout, indent=9))

"""The command that sets up: `init`; it writes a configuration, or prints what deploys one."""

import shlex
from collections.abc import Callable
from pathlib import Path

import click

from syncd.cli.options import F, Options, common, pass_options
from syncd.deploy import shipped
from syncd.log import printable

DEFAULT = Path("syncd.toml")
TEMPLATE = """\
# The configuration of syncd. What is commented out shows the default.
# Any setting can come from the environment instead: SYNCD_UPLOAD__WORKERS=4.
# The API key never stands here: set AYMARA_AI_API_KEY, or AYMARA_AI_API_KEY_FILE.

[[folders]]
path = "drop"               # the folder to watch; relative to this file
# name = "drop"             # its key in the state: keep it when the folder moves
# include = ["*.mp4"]       # gitignore patterns; without any, all files are meant
# exclude = ["drafts/"]
# hidden = false            # also files whose name begins with a dot
# syncdignore = true        # obey the rules in .syncdignore files
# max_size = "5GiB"         # larger files are left out; without it there is no limit
# existing = "upload"       # or "skip": what is there at the very first scan is left out
# watch = "auto"            # or "native", "polling"
# settle_seconds = 5        # a file is sent when it has been quiet for this long; 0 where it
#                           # is renamed in when it is finished
# rescan_seconds = 300
# grace_seconds = 60        # a file must be gone for this long before it is deleted remotely
# workspace_uuid = "123e4567-e89b-12d3-a456-426614174000"
# mirror_deletions = true   # false: what is deleted here stays there
# marker = ".syncd-root"    # a file without which the folder is not there: for mounts
# root = "known"            # or "any": whatever is at path, for scratch volumes; nothing is deleted
# hold_files = 20           # these three: as in [deletions], for this folder alone
# hold_percent = 20
# hold_max = 1000
# superseded_grace = 0      # seconds for which the old copy of a changed file is kept
# hold_changes = false      # true: new content waits for your word where most of the folder changes
# after_upload = "keep"     # or "move", "delete": what becomes of a file once it is live
# move_to = "/srv/sent"
# receipts = false          # true: a file with the uuid beside each moved file; or a directory

# [[folders]]               # and another one
# path = "/srv/videos"

[api]
# environment = "production"    # or "staging", "development"
# base_url = "https://..."      # in place of an environment
# workspace_uuid = "123e4567-e89b-12d3-a456-426614174000"
# sandbox = false
# timeout_seconds = 60
# connect_seconds = 5
# proxy = "http://proxy:3128"   # or "http://user:password@proxy:3128", with %23 for a # in them
# ca_file = "/etc/ssl/our-ca.pem"
# client_cert = "/etc/syncd/client.pem"   # the certificate that we show, where one is demanded
# client_key = "/etc/syncd/client.key"    # its key, where client_cert does not hold it
# storage_hosts = ["minio.lan"] # hosts of presigned URLs that may be private, or take plain HTTP
# allow_cleartext = false       # true lets the key go to another machine by plain HTTP

[state]
# directory = "/var/lib/syncd"  # default: $STATE_DIRECTORY, else ~/.local/state/syncd
# on_new = "hold"               # where the state is new and another syncd has sent the same files:
#                               # "new" sends them again, "adopt" takes up what is there

[upload]
# workers = "auto"              # as many parallel transfers as raise throughput (up to 64)
# method = "auto"               # or "direct", "presigned"
# direct_max = "32MiB"          # auto: larger files go presigned
# token = true                  # false: names are sent as they are
# resend_after_seconds = 120
# drain_seconds = 10
# bandwidth = "off"             # or "4MiB/s", or "Mon-Fri 08:00 1MiB/s, 19:00 off"

[processing]
# first_poll_seconds = 2
# max_poll_seconds = 60
# polls_per_second = 5
# stalled_after = "24h"

[deletions]
# grace_seconds = 60
# hold_files = 20               # more deletions an hour, and more than hold_percent, are held
# hold_percent = 20             # "off" turns a limit off
# hold_max = 1000               # more than this always are
# remote_gone = "hold"          # or "reupload", "forget"

[server]
# listen = "127.0.0.1:8766"     # the status page, /healthz, /metrics; default: nowhere
# token_file = "/etc/syncd/token"   # must be shown as a bearer token; needed off loopback
# allowed_hosts = ["sync.lan"]  # names it is called by, beside its address and this machine's name
# metrics = "token"             # "open": /metrics needs no token

[alerts]
# webhook = "https://..."       # gets a JSON document when not all is well, and when it is again
# command = ["/usr/local/bin/alert"]   # gets the same on its standard input
# ping_url = "https://..."      # called every minute while all is well
# after_seconds = 60            # problems that clear within this time are not reported

# [[hooks]]                     # tells a command or a URL of each file, as JSON
# on = "synced"                 # or "failed", "deleted"
# name = "index"                # its key in the state
# command = ["/usr/local/bin/tell"]    # or url = "https://..."
# timeout_seconds = 30

[log]
# format = "auto"               # or "text", "journal", "json"
# level = "info"
"""


def _prints(name: str, text: str) -> Callable[[F], F]:
    """Return an option that prints something in place of writing a configuration."""
    return click.option(f"--{name}", is_flag=True, help=text)


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--force", is_flag=True, help="Overwrite the file if it is there.")
@_prints("systemd", "Print a unit of systemd for the configuration that is in force.")
@click.option("--user", is_flag=True, help="With --systemd: a unit for your own service manager.")
@click.option(
    "--drop-in",
    type=click.Choice(shipped.drop_ins()),
    help="With --systemd: print a drop-in for the unit, and no unit.",
)
@_prints("compose", "Print a project of Docker Compose for it.")
@click.option(
    "--kubernetes",
    type=click.Choice(["statefulset", "deployment", "job", "sharded"]),
    is_flag=False,
    flag_value="statefulset",
    help="Print a manifest of Kubernetes for it (without a word: a StatefulSet).",
)
@_prints("daemonset", "Print a manifest that serves its folders on each node of Kubernetes.")
@_prints("prometheus-rules", "Print alert rules for Prometheus.")
@_prints("grafana", "Print a dashboard for Grafana.")
@common
@pass_options
def init(
    options: Options,
    /,
    file: Path | None,
    *,
    force: bool,
    user: bool,
    drop_in: str | None,
    **printed: bool | str | None,
) -> None:
    """Write a commented configuration to FILE (./syncd.toml), or print what deploys one."""
    given = [name for name, value in printed.items() if value]
    if len(given) > 1:
        words = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise click.UsageError(f"{words}: give only one of them")
    for option, is_given in (("user", user), ("drop-in", drop_in)):
        if is_given and not printed["systemd"]:
            raise click.UsageError(f"--{option} goes with --systemd")
    if not given:
        _write(options, file, force=force)
        return
    if file or force:
        raise click.UsageError("nothing is written, so FILE and --force do not apply; use -c FILE")
    # Only here: a new configuration needs none of it.
    from syncd.cli import deploying  # noqa: PLC0415

    what = str(printed["kubernetes"] or given[0].replace("_", "-"))
    text = (
        deploying.drop_in(drop_in, user=user)
        if drop_in
        else deploying.text(options, what, user=user)
    )
    click.echo(text, nl=False)


def _write(options: Options, file: Path | None, *, force: bool) -> None:
    file = file or options.config or DEFAULT
    shown = printable(str(file))
    try:
        with file.open("w" if force else "x", encoding="utf-8") as opened:
            opened.write(TEMPLATE)
    except FileExistsError as error:
        raise click.ClickException(f"{shown} is there already; --force overwrites it") from error
    except FileNotFoundError as error:
        raise click.ClickException(
            f"cannot write {shown}: its directory is not there; run: "
            f"mkdir -p {shlex.quote(printable(str(file.parent)))}"
        ) from error
    except OSError as error:
        raise click.ClickException(f"cannot write {shown}: {error.strerror}") from error
    # A file that is found by itself needs no option.
    option = "" if file == DEFAULT else f" -c {shlex.quote(shown)}"
    click.echo(
        f"Wrote {shown}. Next:\n"
        f"  1. set `path` in it to your folder\n"
        f"  2. export AYMARA_AI_API_KEY=...\n"
        f"  3. one pass, to see that it works: syncd once{option}\n"
        f"  4. from then on: syncd run{option}\n"
        f"  5. to see how it does: syncd status{option}"
    )

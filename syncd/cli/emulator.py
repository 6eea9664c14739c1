"""The command that serves a Files API on this machine: `emulator`."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from syncd import log
from syncd.cli.group import missing_extra
from syncd.cli.options import Options, common, pass_options
from syncd.files_api.base_url import http_url
from syncd.units import parse_bytes

#: The personality that each choice of `--echo` stands for.
ECHO = {"path": "whole-path", "name": "last-segment", "none": "no-echo"}


class _Size(click.ParamType[Any]):
    name = "size"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        try:
            return value if isinstance(value, int) else parse_bytes(value)
        except ValueError as error:
            self.fail(f"{value!r} {error}", param, ctx)


class _Address(click.ParamType[Any]):
    name = "host:port"

    def convert(
        self,
        value: str | tuple[str, int],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        host, _, port = value.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65_535:
            self.fail(f"{value!r} is not HOST:PORT, such as 127.0.0.1:8765", param, ctx)
        return host.strip("[]"), int(port)


class _Emulator(click.Command):
    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        heading = "Personalities"
        try:
            text = ", ".join(load_emulator().PERSONALITIES)
        except click.ClickException as error:
            heading, text = "Not installed", error.message
        with formatter.section(heading):
            formatter.write_text(text)


@click.command(cls=_Emulator)
@click.option(
    "--listen",
    type=_Address(),
    default="127.0.0.1:8765",
    show_default=True,
    help="Where to listen; port 0 picks one, and says which.",
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Where everything is kept, across restarts.",
)
@click.option("--api-key", help="The only key it accepts.")
@click.option(
    "--echo",
    type=click.Choice(list(ECHO)),
    help="What it returns of a file's name (default: name); as three of the personalities do.",
)
@click.option(
    "--rate-limit", type=click.FloatRange(min=0, min_open=True), help="Requests a second."
)
@click.option("--max-body", type=_Size(), help="The largest upload, such as 100MiB.")
@click.option(
    "--s3",
    metavar="URL",
    help="Keep the bytes in a bucket, s3://bucket/folder; with the AWS variables' credentials.",
)
@click.option("--s3-endpoint", metavar="URL", help="Where S3 answers, if it is not Amazon's.")
@click.option(
    "--private-uris", is_flag=True, help="Fetch a remote_uri from private addresses, too."
)
@click.option(
    "--public-url",
    metavar="URL",
    help="How clients reach it, behind a proxy with TLS: the beginning of presigned URLs.",
)
@click.option(
    "--personality",
    metavar="NAME",
    multiple=True,
    help="How it differs from other services. Repeat the option for several: they add up.",
)
@common
@pass_options
def emulator(
    options: Options,
    *,
    listen: tuple[str, int],
    data: Path,
    api_key: str | None,
    echo: str | None,
    rate_limit: float | None,
    max_body: int | None,
    private_uris: bool,
    s3: str | None,
    s3_endpoint: str | None,
    public_url: str | None,
    personality: tuple[str, ...],
) -> None:
    """Serve a Files API on this machine: for trying things out, for tests, for your own CI."""
    package = load_emulator()
    personality += (ECHO[echo],) if echo else ()
    try:
        package.personality(*personality)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--personality") from error
    if public_url is not None and not http_url(public_url):
        raise click.BadParameter("must look like https://host", param_hint="--public-url")
    log.configure(level="debug" if options.verbosity else "info")
    host, port = listen
    with _failures_in_words(data, f"{host}:{port}"):
        package.serve(
            host=host,
            port=port,
            data=data,
            api_key=api_key,
            rate_limit=rate_limit,
            max_body=max_body,
            private_uris=private_uris,
            s3=s3,
            s3_endpoint=s3_endpoint,
            public_url=public_url,
            personality=personality,
        )


@contextmanager
def _failures_in_words(data: Path, address: str) -> Iterator[None]:
    """Turn what keeps the emulator from serving into an error of the command line."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except ModuleNotFoundError as error:
        raise click.ClickException(missing_extra("emulator --s3", error, "s3")) from error
    except ConnectionError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        where = f"keep data in {data}" if error.filename else f"listen on {address}"
        raise click.ClickException(f"cannot {where}: {error.strerror or error}") from error


def load_emulator(command: str = "emulator") -> ModuleType:
    """Return `syncd.emulator`; ClickException naming the extra where its packages are missing."""
    try:
        return import_module("syncd.emulator")
    except ModuleNotFoundError as error:
        raise click.ClickException(missing_extra(command, error)) from error

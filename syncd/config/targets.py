"""The settings for what syncd tells others: alerts and hooks, by commands and URLs."""

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from syncd.addresses import is_loopback
from syncd.config.section import Section

#: A step that takes longer is reported as one that hangs.
MOST_SECONDS = 600.0
#: A name or an address, and a port.
_PLACE = re.compile(r"([\w.-]+|\[[\da-f:.]+\])(:\d+)?", re.ASCII | re.IGNORECASE)


def _checked(url: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(url.get_secret_value())
        is_sane = parts.scheme in ("http", "https") and parts.port != 0
        is_sane &= bool(_PLACE.fullmatch(parts.netloc.rpartition("@")[2]))
    except ValueError:
        is_sane = False
    text = url.get_secret_value()
    if not is_sane or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("must be a URL such as https://alerts.example.com/syncd")
    if parts.fragment:
        raise ValueError("must be a URL without a fragment (#)")
    return url


#: Never shown: it may hold a token.
Url = Annotated[SecretStr, AfterValidator(_checked)]
#: A program and its arguments; not shown, as these may hold a token, too.
Words = Annotated[tuple[str, ...], Field(repr=False)]


def _checked_words(command: tuple[str, ...]) -> tuple[str, ...]:
    if any("\0" in word for word in command):
        raise ValueError("must not hold a zero byte")
    if command and not command[0].strip():
        raise ValueError('must begin with a program, as in ["/usr/local/bin/tell", "--now"]')
    return command


class AlertSettings(Section):
    """Whom to tell when not all is well, and when it is again."""

    webhook: Url | None = None
    command: Words = ()
    #: called while all is well
    ping_url: Url | None = None
    #: problems that clear within this time are not reported
    after_seconds: float = Field(default=60, ge=0, le=86_400)

    _command = field_validator("command")(_checked_words)

    def secrets(self) -> Iterator[str]:
        """Yield each value that must never be shown."""
        yield from _secrets(self.webhook, self.ping_url)


class HookSettings(Section):
    """A command or a URL that is told of each file with which something was done."""

    on: Literal["synced", "failed", "deleted"]
    #: its key in the state; `load` fills in the default
    name: str = Field(default="", max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")
    command: Words = ()
    url: Url | None = None
    timeout_seconds: float = Field(default=30, gt=0, le=MOST_SECONDS)

    _command = field_validator("command")(_checked_words)

    @model_validator(mode="after")
    def _has_one_target(self) -> "HookSettings":
        if bool(self.command) == (self.url is not None):
            raise ValueError("a hook needs either a command or a url")
        return self

    def secrets(self) -> Iterator[str]:
        """Yield each value that must never be shown."""
        yield from _secrets(self.url)


def _secrets(*urls: SecretStr | None) -> Iterator[str]:
    for url in urls:
        if url is not None:
            parts = urlsplit(url.get_secret_value())
            yield url.get_secret_value()
            yield from filter(None, (parts.query, parts.password, unquote(parts.password or "")))


def named(hooks: Sequence[HookSettings]) -> tuple[HookSettings, ...]:
    """Give each hook without a name one: what it is told of, and which of these it is."""
    given = {hook.name for hook in hooks}
    found, numbers = [], Counter[str]()
    for hook in hooks:
        name = hook.name
        while not name:
            numbers[hook.on] += 1
            number = numbers[hook.on]
            name = hook.on if number == 1 else f"{hook.on}-{number}"
            name = "" if name in given else name
        found.append(hook.model_copy(update={"name": name}))
    return tuple(found)


def anchor(values: dict[str, Any], base: Path) -> None:
    """Make the path of each command's program absolute; one without a slash stands in $PATH."""
    hooks = values.get("hooks")
    for table in (values.get("alerts"), *(hooks if isinstance(hooks, list) else [])):
        command = table.get("command") if isinstance(table, dict) else None
        if isinstance(command, list) and command and "/" in str(command[0]):
            table["command"] = [os.path.normpath(base / str(command[0])), *command[1:]]


def _targets(
    alerts: AlertSettings, hooks: Sequence[HookSettings]
) -> Iterator[tuple[str, tuple[str, ...], SecretStr | None]]:
    """Yield each target: the setting, its command, its URL."""
    yield "[alerts] webhook", (), alerts.webhook
    yield "[alerts] command", alerts.command, None
    yield "[alerts] ping_url", (), alerts.ping_url
    for number, hook in enumerate(hooks, start=1):
        yield f"[[hooks]] number {number}", hook.command, hook.url


def conflicts(
    alerts: AlertSettings, hooks: Sequence[HookSettings], where: str, *, allow_cleartext: bool
) -> Iterator[str]:
    """Yield what is wrong with targets that are each well written; `where` they are configured."""
    for name, count in Counter(hook.name for hook in hooks).items():
        if count > 1:
            yield f"{where}: {count} hooks have the name {name!r}; give each its own name"
    for setting, _, url in _targets(alerts, hooks):
        parts = urlsplit(url.get_secret_value() if url else "")
        if parts.scheme == "http" and not allow_cleartext and not is_loopback(parts.hostname or ""):
            yield (
                f"{where}: {setting}: what is told would go to {parts.hostname} in clear text, for "
                "anybody on the way to read: use https://, or set [api] allow_cleartext = true"
            )


def missing_programs(alerts: AlertSettings, hooks: Sequence[HookSettings]) -> Iterator[str]:
    """Yield a warning for each command whose program is not there now."""
    for setting, command, _ in _targets(alerts, hooks):
        if command and shutil.which(command[0]) is None:
            yield (
                f"{setting}: there is no program {command[0]} that this user may run; install it, "
                "or name its path"
            )

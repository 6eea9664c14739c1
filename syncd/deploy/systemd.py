"""The unit of systemd for one configuration, made from the unit that syncd ships."""

import grp
import os
import pwd
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from syncd.config.credentials import (
    KEY_FILE_VARIABLE,
    KEY_VARIABLE,
    TOKEN_CREDENTIAL,
    TOKEN_FILE_VARIABLE,
)
from syncd.config.loading import SANDBOX_VARIABLE
from syncd.config.locations import (
    FOLDERS_VARIABLE,
    STATE_VARIABLE,
    URL_VARIABLE,
    absolute,
    current_directory,
    default_state_directory,
)
from syncd.config.settings import Config
from syncd.deploy import access, environment, obstacles, shipped
from syncd.exceptions import ConfigError

_PROGRAM, _FILE = "/opt/syncd/bin/syncd", "/etc/syncd/syncd.toml"
_USER_PROGRAM, _USER_FILE = "%h/.local/bin/syncd", "%h/.config/syncd/syncd.toml"
_KEY_FILE, _USER_KEY_FILE = "/etc/syncd/aymara-api-key", "%h/.config/syncd/aymara-api-key"
_STATES = Path("/var/lib")
#: Variables that say where something is for the process that prints, and not for the service.
_OWN = re.compile(
    r"SYNCD_(HOOK_.*|CONFIG|API__(PROXY|CLIENT_\w+)|SERVER__TOKEN_FILE|ALERTS__(WEBHOOK|PING_URL|COMMAND)|HOOKS)"
)
#: Variables that hold a path.
_PATHS = (STATE_VARIABLE, "SYNCD_WATCH", "SYNCD_API__CA_FILE")
_HOMES = tuple(map(Path, ("/home", "/root", "/run/user")))
#: A service of one's own needs no other: it reads what its user may read.
USER_DROP_INS = ("backoff",)
_TEMPORARY = tuple(map(Path, ("/tmp", "/var/tmp")))  # noqa: S108


def system_unit(config: Config, environ: Mapping[str, str]) -> str:
    """Return a unit for the system's manager; raise ConfigError where none can serve `config`."""
    owner = _owner(config, environ)
    user = owner or "syncd"
    state = _state(config, environ)
    beneath = state.relative_to(_STATES) if state and _STATES in state.parents else None
    given = {
        "User": [user],
        "Group": [] if owner else ["syncd"],
        "DynamicUser": ["no" if owner else "yes"],
        "LoadCredential": [*_credentials(environ)],
    }
    groups = [_group_name(group) for group in sorted(_groups(config))]
    writable = [*_written(config)]
    if state and beneath is None:
        given |= {"StateDirectory": [], "StateDirectoryMode": []}
        writable.append(state)
    else:
        given["StateDirectory"] = [_escaped(beneath or "syncd")]
    named = [folder.path for folder in config.folders]
    used = [*named, *writable, *obstacles.programs(), *filter(None, [config.file])]
    # A drop-in for what the unit has already would only mislead.
    needless = ["group"] if owner or groups else []
    if _any_beneath(used, _HOMES):
        given["ProtectHome"] = ["read-only"]
        needless.append("home")
    if _any_beneath(used, _TEMPORARY):
        given["PrivateTmp"] = ["no"]
    text = _adapted(shipped.read("syncd.service"), config, (_PROGRAM, _FILE))
    text = _without_drop_ins(_with(text, given), needless)
    more = [f"SupplementaryGroups={group}" for group in groups]
    more += [*_environment(config, environ), *_secret_files(config)]
    # Without the dash the service would not start while one of them is away.
    more += [f"ReadWritePaths={_quoted(f'-{path}')}" for path in dict.fromkeys(writable)]
    # Without a name in the configuration, others than the service look elsewhere.
    head = _head(config, environ, user="", state=None if state else _STATES / "syncd")
    return head + _added(text, more)


def user_unit(config: Config, environ: Mapping[str, str]) -> str:
    """Return a unit for the manager of one user."""
    text = _adapted(shipped.read("user/syncd.service"), config, (_USER_PROGRAM, _USER_FILE))
    key = environ.get(KEY_FILE_VARIABLE)
    text = text.replace(_USER_KEY_FILE, _escaped(Path(key).absolute()) if key else _USER_KEY_FILE)
    more = [*_environment(config, environ)]
    if environ.get("XDG_STATE_HOME") and not environ.get(STATE_VARIABLE):
        more.append(_variable(STATE_VARIABLE, str(config.state.directory)))
    return _head(config, environ, user="--user ") + _added(text, more)


def warnings(config: Config, environ: Mapping[str, str], *, user: bool) -> Iterator[str]:
    """Yield what would keep the unit from starting."""
    if user:
        return obstacles.of_user(config)
    return obstacles.of_system(config, _owner(config, environ), _groups(config))


def drop_in(name: str, *, user: bool) -> str:
    """Return a shipped drop-in, below the commands that install it."""
    option, sudo = ("--user ", "") if user else ("", "sudo ")
    place = f"{_place(user=user)}/syncd.service.d/{name}.conf"
    command = ["syncd", "init", "--systemd", *option.split(), "--drop-in", name]
    install = f"{sudo}install -D -m 644 /dev/stdin {place}"
    lines = [
        f"{' '.join(command)} | {install}",
        f"{sudo}systemctl {option}daemon-reload && {sudo}systemctl {option}restart syncd",
    ]
    return "".join(f"# {line}\n" for line in lines) + shipped.read(f"drop-ins/{name}.conf")


def _place(*, user: bool) -> str:
    return "~/.config/systemd/user" if user else "/etc/systemd/system"


def _head(
    config: Config, environ: Mapping[str, str], *, user: str, state: Path | None = None
) -> str:
    """Return the comment that says how to install the unit."""
    place = _place(user=bool(user))
    option = f" -c {shlex.quote(str(config.file))}" if config.file else ""
    call = f"syncd{option} init --systemd {user}".rstrip()
    lines = [
        *_key_command(environ, is_user=bool(user)),
        f"{call} > {place}/syncd.service",
        *(['sudo loginctl enable-linger "$USER"'] if user else []),
        f"systemctl {user}daemon-reload && systemctl {user}enable --now syncd",
    ]
    if state:
        lines.append(f"{STATE_VARIABLE}={shlex.quote(str(state))} syncd{option} status")
    return "".join(f"# {line}\n" for line in lines)


def _key_command(environ: Mapping[str, str], *, is_user: bool) -> Iterator[str]:
    """Yield the command that makes the key's file, unless it is there."""
    file = "~/.config/syncd/aymara-api-key" if is_user else _KEY_FILE
    given = environ.get(KEY_FILE_VARIABLE)
    place = Path(given).absolute() if given else Path(file).expanduser()
    try:
        place.lstat()
    except FileNotFoundError:
        shown = shlex.quote(str(place)) if given else file
        yield f'install -D -m 600 /dev/stdin {shown} <<< "${KEY_VARIABLE}"'
    except OSError:
        # It may be there: writing to it anew could lose a key.
        return


def _adapted(text: str, config: Config, shown: tuple[str, str]) -> str:
    """Return a shipped unit with this installation's program and the configuration's file."""
    program, file = shown
    lines = text.splitlines(keepends=True)
    given = f"--config {_word(config.file)}" if config.file else ""
    return "".join(
        line
        if line.startswith("#")
        else line.replace(program, _command()).replace(f"--config {file}", given)
        for line in lines
    )


def _program() -> Path:
    """Return the program of this installation."""
    return Path(sys.prefix, "bin", "syncd")


def _command() -> str:
    program = _program()
    if os.access(program, os.X_OK):
        return _word(program)
    return f"{_word(Path(sys.executable))} -m syncd"


def _with(text: str, given: Mapping[str, list[str]]) -> str:
    """Return a unit whose lines with these keys are replaced, each by as many as are given."""
    for key, values in given.items():
        lines = "".join(f"{key}={value}\n" for value in values)
        before, *rest = re.split(rf"^{key}=.*\n", text, flags=re.MULTILINE)
        text = before + lines + "".join(rest)
    return text


def _without_drop_ins(text: str, names: list[str]) -> str:
    """Return a unit without the comments that name these drop-ins."""
    for name in names:
        text = re.sub(rf"^#.*--drop-in {name}\b.*\n", "", text, flags=re.MULTILINE)
    return text


def _added(text: str, lines: list[str]) -> str:
    """Return a unit with more lines at the end of its service."""
    service, install = text.split("\n[Install]\n")
    return "\n".join([service.rstrip("\n"), *lines, "", "[Install]", install])


def _credentials(environ: Mapping[str, str]) -> Iterator[str]:
    key = environ.get(KEY_FILE_VARIABLE)
    yield f"aymara-api-key:{_escaped(Path(key).absolute()) if key else _KEY_FILE}"
    if token := environ.get(TOKEN_FILE_VARIABLE):
        yield f"{TOKEN_CREDENTIAL}:{_escaped(Path(token).absolute())}"


def _secret_files(config: Config) -> Iterator[str]:
    """Yield lines that hand over files which root alone may read."""
    for name, variable, path in (
        ("server-token", "SYNCD_SERVER__TOKEN_FILE", config.server.token_file),
        ("client-cert", "SYNCD_API__CLIENT_CERT", config.api.client_cert),
        ("client-key", "SYNCD_API__CLIENT_KEY", config.api.client_key),
    ):
        if path:
            yield f"LoadCredential={name}:{_escaped(path)}"
            yield f"Environment={variable}=%d/{name}"


def _environment(config: Config, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the settings that the environment of the caller holds, but for what may be secret."""
    for name, value in sorted(environ.items()):
        is_ours = name.startswith("SYNCD_") and not _OWN.fullmatch(name)
        if not value or not (is_ours or name in (URL_VARIABLE, SANDBOX_VARIABLE)):
            continue
        if name == FOLDERS_VARIABLE:
            # Its paths are absolute there.
            yield _variable(name, environment.folders(config)[name])
        else:
            is_path = name in _PATHS
            yield _variable(name, str(absolute(value, current_directory())) if is_path else value)


def _state(config: Config, environ: Mapping[str, str]) -> Path | None:
    """Return the state directory that was named; None where the default serves."""
    named = config.state.directory
    return None if named == default_state_directory(environ) else named


def _written(config: Config) -> Iterator[Path]:
    """Yield the directories in which syncd takes files away or writes."""
    for folder in config.folders:
        if folder.after_upload != "keep":
            yield folder.path
        if folder.move_to:
            yield folder.move_to
        if folder.receipts_to:
            yield folder.receipts_to


def _owner(config: Config, environ: Mapping[str, str]) -> str:
    """Return the user whom the folders need; empty where any user serves.

    Raise ConfigError when they need several, or root.
    """
    needed = dict.fromkeys(_written(config), "written")
    state = _state(config, environ)
    if state and _STATES not in state.parents:
        needed[state] = "written"
    needed |= {
        folder.path: "read"
        for folder in config.folders
        if folder.path not in needed and not _is_open(folder.path) and not _group(folder.path)
    }
    owners = {path: _who(path) for path in needed}
    for path, owner in owners.items():
        if owner == "root":
            group = " or a group (chgrp)" if needed[path] == "read" else ""
            raise ConfigError(
                f"{path} can be {needed[path]} by root alone, and the service does not run as "
                f"root; give it to another user (chown){group}"
            )
    if len({*owners.values()}) > 1:
        whose = ", ".join(f"{path} to {owner}" for path, owner in owners.items())
        raise ConfigError(
            f"one service cannot serve folders of several users: {whose} belongs; make one "
            "configuration for each user"
        )
    return next(iter(owners.values()), "")


def _groups(config: Config) -> set[int]:
    """Return the groups through which the service reads folders of root's."""
    return {
        group
        for folder in config.folders
        if not _is_open(folder.path) and (group := _group(folder.path))
    }


def _group(path: Path) -> int:
    """Return the group that may list a directory of root's; 0 where it takes root."""
    try:
        status = path.stat()
    except OSError:
        return 0
    is_readable = access.reaches(path, None, {status.st_gid})
    return status.st_gid if status.st_uid == 0 and is_readable else 0


def _group_name(group: int) -> str:
    try:
        return grp.getgrgid(group).gr_name
    except KeyError:
        return str(group)


def _who(path: Path) -> str:
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; the service's user is its owner: it must be there first"
        ) from error
    try:
        return pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        return str(status.st_uid)


def _is_open(path: Path) -> bool:
    """Whether every user may list a directory; one that is not there counts as open."""
    return access.reaches(path, None, frozenset()) is not False


def _any_beneath(paths: list[Path], places: tuple[Path, ...]) -> bool:
    return any(place in (path, *path.parents) for path in paths for place in places)


def _escaped(path: Path | str) -> str:
    """Return a path as it stands alone in a unit; raise ConfigError where it cannot."""
    text = str(path)
    if not text.isprintable():
        raise ConfigError(f"{text!r} cannot stand in a unit of systemd; use a plainer path")
    return text.replace("%", "%%")


def _quoted(text: str) -> str:
    inner = _escaped(text)
    for char in '\\"':
        inner = inner.replace(char, f"\\{char}")
    return f'"{inner}"' if re.search(r"[\s\"'\\]", text) else inner


def _word(path: Path) -> str:
    """Return a path as a word of a command."""
    return _quoted(str(path)).replace("$", "$$")


def _variable(name: str, value: str) -> str:
    return f"Environment={_quoted(f'{name}={value}')}"

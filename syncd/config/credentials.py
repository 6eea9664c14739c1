"""The API key: its sources, and which files are refused. No message shows its value."""

import ctypes
import os
import resource
import select
import shlex
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, SecretStr

from syncd.config.locations import expanded, other_writers
from syncd.exceptions import ConfigError

KEY_VARIABLE = "AYMARA_AI_API_KEY"
KEY_FILE_VARIABLE = "AYMARA_AI_API_KEY_FILE"
TOKEN_VARIABLE = "AYMARA_AI_BEARER_TOKEN"  # noqa: S105 - a name
TOKEN_FILE_VARIABLE = "AYMARA_AI_BEARER_TOKEN_FILE"  # noqa: S105 - a name
SYSTEMD_CREDENTIAL = "aymara-api-key"
TOKEN_CREDENTIAL = "aymara-bearer-token"  # noqa: S105 - a name
#: From <linux/prctl.h>.
_PR_SET_DUMPABLE = 4
#: A longer file is not a key.
_LONGEST_BYTES = 16_384
#: Seconds that a pipe may take to deliver a key.
_PIPE_SECONDS = 5.0


class Credentials(BaseModel):
    """The key or token that authenticates us to the service, and its source."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    api_key: SecretStr | None = None
    bearer_token: SecretStr | None = None
    #: where it was found, for a person
    source: str = ""

    @property
    def remedy(self) -> str:
        """The remedy for a refused key; a daemon rereads a file, but not its environment."""
        is_reread = self.source.startswith(KEY_FILE_VARIABLE)
        then = "syncd rereads it by itself" if is_reread else "then start syncd again"
        return f"put a valid key into {self.source}; {then}"

    def secrets(self) -> Iterator[str]:
        """Yield the values that must never be shown."""
        for secret in (self.api_key, self.bearer_token):
            if secret is not None:
                yield secret.get_secret_value()


def forbid_core_dumps() -> None:
    """Keep this process's memory, which holds the key, off the disk and from other processes.

    A crash still prints each thread's stack. A failure here does not keep syncd from starting.
    """
    with suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    # A core_pattern that is a pipe ignores the limit, but obeys this.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def load(environ: Mapping[str, str], warnings: list[str]) -> Credentials:
    """Return the key and the bearer token, each from its variable, file or systemd credential.

    Add to `warnings`. Raise ConfigError when there is neither, or one cannot be used.
    """
    key, key_source = _secret(
        KEY_VARIABLE, KEY_FILE_VARIABLE, SYSTEMD_CREDENTIAL, environ, warnings
    )
    # An empty key is a mistake; an empty token means no token.
    given = {name: value for name, value in environ.items() if value or name != TOKEN_VARIABLE}
    token, token_source = _secret(
        TOKEN_VARIABLE, TOKEN_FILE_VARIABLE, TOKEN_CREDENTIAL, given, warnings
    )
    source = " and ".join(filter(None, (key_source, token_source)))
    if key is None and token is None:
        raise ConfigError(
            f"no API key: set {KEY_VARIABLE}, or {KEY_FILE_VARIABLE} to the path of a file that "
            f"holds it (under systemd: LoadCredential={SYSTEMD_CREDENTIAL}:PATH)"
        )
    return Credentials(
        api_key=SecretStr(key) if key is not None else None,
        bearer_token=SecretStr(token) if token is not None else None,
        source=source,
    )


def _secret(
    variable: str,
    file_variable: str,
    credential: str,
    environ: Mapping[str, str],
    warnings: list[str],
) -> tuple[str | None, str]:
    """Return a secret and its source; None if nothing names one."""
    files: dict[str, Path] = {}
    if named := environ.get(file_variable):
        files[f"{file_variable} ({named})"] = expanded(named)
    if directory := environ.get("CREDENTIALS_DIRECTORY"):
        path = Path(directory, credential)
        # systemd hides them from the commands of a reload: they count as not given there.
        if os.path.exists(path):  # noqa: PTH110 - Path.exists() raises where it may not look
            files[f"the systemd credential {credential}"] = path
    source, *others = [*([variable] if variable in environ else []), *files, ""]
    warnings += [f"{other} is not used: {source} wins" for other in filter(None, others)]
    if source == variable:
        return _checked(environ[variable], variable), variable
    return (read_secret(files[source], source, environ, warnings) if source else None), source


def read_secret(path: Path, source: str, environ: Mapping[str, str], warnings: list[str]) -> str:
    """Return the one line of the file at `path`, which `source` names, and add to `warnings`.

    Raise ConfigError when the file cannot be read, or others may write it.
    """
    content = read_private(path, source, environ, warnings)
    # Some editors begin a file with a byte order mark.
    return _checked(content.decode("utf-8-sig", "replace"), source)


def read_private(path: Path, source: str, environ: Mapping[str, str], warnings: list[str]) -> bytes:
    """Return the content of a file that only its owner should read; see `read_secret`."""
    try:
        status, content = _read(path)
    except TimeoutError as error:
        raise ConfigError(
            f"{source}: {path} is a pipe, and nothing was written to it for {_PIPE_SECONDS:g} s; "
            "name a file, or check the program that should write to the pipe"
        ) from error
    except OSError as error:
        raise ConfigError(f"{source}: {cannot_read(error)}") from error
    remedy = f"run: chmod 600 {shlex.quote(str(path))}"
    if writers := other_writers(status):
        raise ConfigError(f"{source}: {writers} may write the file; {remedy}")
    if status.st_mode & stat.S_IROTH and not _is_secret_mount(path, environ):
        warnings.append(f"{source}: everyone on this machine may read the file; {remedy}")
    return content


def cannot_read(error: OSError) -> str:
    """Return why a file that a setting names cannot be read, and the remedy."""
    user = os.getuid()
    remedy = f"user {user} must be allowed to read it"
    if isinstance(error, PermissionError) and (owner := _owner(error.filename)):
        remedy = f"it belongs to {owner}: run syncd as that user, or let user {user} read it"
    elif isinstance(error, FileNotFoundError):
        remedy = "put it there, or name the right path"
    elif isinstance(error, IsADirectoryError | NotADirectoryError):
        remedy = "name a file"
    return f"cannot read the file: {error.strerror}; {remedy}"


def _owner(path: str | None) -> str:
    """Return who owns a file, with its mode, unless that is root or cannot be known."""
    try:
        status = os.stat(path or "")  # noqa: PTH116 - the error has a string
    except OSError:
        return ""
    return f"user {status.st_uid}, mode {status.st_mode & 0o777:o}" if status.st_uid else ""


def _read(path: Path) -> tuple[os.stat_result, bytes]:
    """Return the status and the content of a file or pipe; raise TimeoutError for a silent pipe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123
        status = os.fstat(descriptor)
        content, deadline = b"", time.monotonic() + _PIPE_SECONDS
        while len(content) <= _LONGEST_BYTES:
            if not stat.S_ISREG(status.st_mode):
                left = max(deadline - time.monotonic(), 0)
                if not select.select([descriptor], [], [], left)[0]:
                    raise TimeoutError
            chunk = file.read(_LONGEST_BYTES + 1)
            if not chunk:
                break
            content += chunk
    return status, content


def _is_secret_mount(path: Path, environ: Mapping[str, str]) -> bool:
    """Return whether the platform guards `path`, whatever its mode."""
    mounts = [Path("/run/secrets"), Path("/var/run/secrets")]
    if directory := environ.get("CREDENTIALS_DIRECTORY"):
        mounts.append(Path(directory))
    # Kubernetes replaces each secret volume as a whole behind a link of this name.
    return any(map(path.absolute().is_relative_to, mounts)) or (path.parent / "..data").is_symlink()


def _checked(value: str, source: str) -> str:
    value = value.strip()
    if not value:
        raise ConfigError(f"{source} is empty; put the secret there, or remove it")
    if len(value) > _LONGEST_BYTES or not value.isascii() or not value.isprintable():
        raise ConfigError(f"{source} must hold exactly one line of plain ASCII")
    return value

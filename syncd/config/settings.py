"""The settings: what can be configured, with defaults and bounds, as frozen values.

`loading` fills them from the file and the environment. There is no setting without effect.
"""

import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, StrictBool, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from syncd.config.credentials import Credentials
from syncd.config.section import Section as _Section
from syncd.config.targets import AlertSettings, HookSettings
from syncd.config.values import (
    DAY_SECONDS,
    YEAR_SECONDS,
    Bandwidth,
    Count,
    Duration,
    Percent,
    Size,
    Span,
    Workers,
    WorkspaceUuid,
    checked_proxy,
    checked_url,
)
from syncd.places import look
from syncd.trust import TlsFiles


class Api(_Section):
    """The service; `base_url` is whole, without a trailing slash."""

    environment: Literal["production", "staging", "development"] = "production"
    base_url: str = ""
    workspace_uuid: WorkspaceUuid | None = None
    #: None sends no such header
    sandbox: bool | None = None
    timeout_seconds: float = Field(default=60, gt=0, le=DAY_SECONDS)
    connect_seconds: float = Field(default=5, gt=0, le=DAY_SECONDS)
    #: not shown: it may hold a password
    proxy: str | None = Field(default=None, repr=False)
    ca_file: Path | None = None
    client_cert: Path | None = None
    #: None where `client_cert` holds the key, too
    client_key: Path | None = None
    #: hosts of presigned URLs that may be at an address that is not public, or take plain HTTP
    storage_hosts: tuple[str, ...] = ()
    #: whether the key may go to another machine by plain HTTP
    allow_cleartext: bool = False

    @property
    def tls_files(self) -> TlsFiles:
        """The files for TLS."""
        return TlsFiles(self.ca_file, self.client_cert, self.client_key)

    @field_validator("base_url")
    @classmethod
    def _is_whole(cls, url: str) -> str:
        return checked_url(url).rstrip("/") if url else url

    @field_validator("proxy")
    @classmethod
    def _is_url(cls, proxy: str | None) -> str | None:
        return checked_proxy(proxy) if proxy else None


class State(_Section):
    """The directory that holds the state, and the meaning of a new one."""

    directory: Path = Path()
    #: what to do where another instance of syncd has sent the same files before
    on_new: Literal["hold", "new", "adopt"] = "hold"


class Upload(_Section):
    """How files are sent."""

    #: parallel transfers; `"auto"` (None) is for as many as raise throughput
    workers: Workers = None
    resend_after_seconds: float = Field(default=120, ge=0, le=YEAR_SECONDS)
    drain_seconds: float = Field(default=10, ge=0, le=DAY_SECONDS)
    token: bool = True
    method: Literal["auto", "direct", "presigned"] = "auto"
    #: in bytes
    direct_max: Size = 32 << 20
    #: "off", a rate, or a timetable
    bandwidth: Bandwidth = "off"


class ProcessingSettings(_Section):
    """How videos are followed."""

    first_poll_seconds: float = Field(default=2, gt=0, le=DAY_SECONDS)
    max_poll_seconds: float = Field(default=60, gt=0, le=DAY_SECONDS)
    polls_per_second: float = Field(default=5, gt=0, le=1000)
    #: in seconds
    stalled_after: Duration = 86_400.0


class DeletionSettings(_Section):
    """How sure syncd makes itself before it deletes."""

    grace_seconds: Span = 60
    #: a person is asked before more than so many files of a folder, and more than this part of
    #: them, are deleted within an hour; and before more than `hold_max` in any case
    hold_files: Count = 20
    hold_percent: Percent = 20
    hold_max: Count = 1000
    remote_gone: Literal["hold", "reupload", "forget"] = "hold"


class Server(_Section):
    """The listener for health, metrics and the status page; off unless `listen` is set."""

    #: HOST:PORT
    listen: str = ""
    token_file: Path | None = None
    #: names by which the listener may be called, beside its address and the machine's own name
    allowed_hosts: tuple[str, ...] = ()
    #: whether `/metrics` wants the token, too
    metrics: Literal["token", "open"] = "token"

    @field_validator("listen")
    @classmethod
    def _is_address(cls, listen: str) -> str:
        host, _, port = listen.rpartition(":")
        if listen and not (host.strip("[]") and port.isdecimal() and int(port) <= 65_535):
            raise ValueError("must be HOST:PORT, such as 127.0.0.1:8766")
        return listen

    @property
    def host(self) -> str:
        """The host of `listen`, without the brackets of an IPv6 address."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port of `listen`; 0 picks one."""
        return int(self.listen.rpartition(":")[2] or 0)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach `listen`."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"


class Log(_Section):
    """How the log is written."""

    format: Literal["auto", "text", "journal", "json"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class FolderSettings(_Section):
    """A watch folder; `path` is absolute, its links are not followed here."""

    path: Path
    #: its key in the state table; as configured, `load` fills in the default
    name: str = Field(default="", max_length=100, pattern=r"^[^/\x00-\x1f\x7f]*$")
    workspace_uuid: WorkspaceUuid | None = None
    #: gitignore patterns; without any include all files are meant
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    hidden: bool = False
    #: whether `.syncdignore` files are obeyed
    syncdignore: bool = True
    #: in bytes; None for no limit
    max_size: Size | None = None
    #: whether the files that the very first scan finds are sent
    existing: Literal["upload", "skip"] = "upload"
    watch: Literal["auto", "native", "polling"] = "auto"
    settle_seconds: float = Field(default=5, ge=0, le=YEAR_SECONDS)
    rescan_seconds: float = Field(default=300, gt=0, le=YEAR_SECONDS)
    grace_seconds: Span = 60
    mirror_deletions: bool = True
    #: as in `DeletionSettings`; None where it is off, `load` fills in the default
    hold_files: Count = None
    hold_percent: Percent = None
    hold_max: Count = None
    #: for how many seconds the old copy of a changed file is kept
    superseded_grace: Span = 0
    #: whether new content is held where most of the folder changes within an hour
    hold_changes: bool = False
    #: relative to `path`: a file without which the folder is not the right one
    marker: str = ""
    #: whether it must stay the same directory, or is whatever is at `path`
    root: Literal["known", "any"] = "known"
    after_upload: Literal["keep", "move", "delete"] = "keep"
    #: absolute; outside every watch folder
    move_to: Path | None = None
    #: whether each file's uuid is written down beside where it is moved to, or in this directory
    receipts: StrictBool | Path = False

    @property
    def place(self) -> bytes:
        """The path as the kernel wants it."""
        return os.fsencode(self.path)

    @property
    def mirrors_deletions(self) -> bool:
        """Whether local deletions are mirrored: never where files come and go by themselves."""
        keeps = self.root == "any" or self.after_upload != "keep"
        return self.mirror_deletions and not keeps

    @field_validator("marker")
    @classmethod
    def _is_beneath(cls, marker: str) -> str:
        if marker and (marker.startswith("/") or {"", ".", ".."} & set(marker.split("/"))):
            raise ValueError("must be the path of a file beneath the folder, such as .syncd-root")
        return marker

    @model_validator(mode="after")
    def _knows_where_to(self) -> "FolderSettings":
        if self.after_upload == "move" and self.move_to is None:
            raise ValueError('after_upload = "move" needs move_to, a folder to move files to')
        return self

    @model_validator(mode="after")
    def _has_a_place_for_receipts(self) -> "FolderSettings":
        if self.receipts is True and self.after_upload != "move":
            raise ValueError(
                'receipts = true writes beside the moved files, and after_upload is not "move": '
                'name a directory, as in receipts = "/srv/receipts"'
            )
        return self

    @property
    def receipts_to(self) -> Path | None:
        """The directory of the receipts; None without any."""
        if isinstance(self.receipts, bool):
            return self.move_to if self.receipts else None
        return self.receipts

    @field_validator("path")
    @classmethod
    def _is_said(cls, path: Path) -> Path:
        if path == Path():
            raise ValueError("is empty")
        return path


class Settings(BaseSettings):
    """The settings that the file and `SYNCD_` variables hold."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        allow_inf_nan=False,
        defer_build=True,
        env_prefix="SYNCD_",
        env_nested_delimiter="__",
        env_ignore_empty=True,
    )

    api: Api = Field(default_factory=Api)
    state: State = Field(default_factory=State)
    upload: Upload = Field(default_factory=Upload)
    processing: ProcessingSettings = Field(default_factory=ProcessingSettings)
    deletions: DeletionSettings = Field(default_factory=DeletionSettings)
    server: Server = Field(default_factory=Server)
    log: Log = Field(default_factory=Log)
    alerts: AlertSettings = Field(default_factory=AlertSettings)
    hooks: tuple[HookSettings, ...] = ()
    folders: tuple[FolderSettings, ...] = ()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what `load` has merged, and nothing behind its back."""
        return (init_settings,)


class Config(Settings):
    """Everything that is configured, with its defaults filled in."""

    credentials: Credentials = Credentials()
    #: the token that the listener asks for; None where it asks for none
    server_token: SecretStr | None = None
    #: the file that was read, if any
    file: Path | None = None
    #: the file or the variable that holds the folders' settings, for a person
    folders_source: str = ""
    #: whether they came with the command line: those that it did not name are left as they are
    folders_are_chosen: bool = False
    #: why a file that was found in passing is not used; empty where none was refused
    refused_file: str = ""
    #: where each setting that is not at its default stands
    sources: dict[tuple[int | str, ...], str] = Field(default_factory=dict)
    #: oddities that are no errors, for the log
    warnings: tuple[str, ...] = ()
    #: the sections of which something is wrong and left out: no part of them is to be relied on
    unusable: frozenset[str] = frozenset()

    def secrets(self) -> Iterator[str]:
        """Yield each value that must never be shown."""
        yield from self.credentials.secrets()
        if self.server_token is not None:
            yield self.server_token.get_secret_value()
        yield from self.alerts.secrets()
        for hook in self.hooks:
            yield from hook.secrets()
        password = urlsplit(self.api.proxy or "").password
        if password:
            yield from (password, unquote(password))

    def missing_folders(self) -> tuple[FolderSettings, ...]:
        """Return the folders whose path is no directory now; a disk that hangs may hold one."""
        places = ((folder, look(folder.path)) for folder in self.folders)
        return tuple(folder for folder, at in places if at.answers and not at.is_directory)

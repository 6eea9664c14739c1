"""The configuration: a TOML file, overridden by the environment, as frozen and validated values.

The file is the first there is of `--config`, `$SYNCD_CONFIG`, `./syncd.toml` and
`/etc/syncd/syncd.toml`. `SYNCD_` variables override it (`SYNCD_UPLOAD__WORKERS=4`), and both win
over the `AYMARA_AI_*` variables that users of the official client have set. Relative paths in the
file are relative to the file.
"""

import shlex
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError

from syncd.config import credentials as keys, targets
from syncd.config.credentials import Credentials
from syncd.config.exposed import exposed
from syncd.config.folder_settings import completed, conflicts
from syncd.config.locations import (
    FILE_VARIABLE,
    FOLDERS_VARIABLE,
    STATE_VARIABLE,
    URL_VARIABLE,
    WATCH_VARIABLE,
    absolute,
    chosen_file,
    config_files,
    current_directory,
    default_state_directory,
    read_config,
)
from syncd.config.problems import Location, described, nearest, remove
from syncd.config.settings import Config, FolderSettings, Settings
from syncd.config.tls import tls_problem
from syncd.config.variables import (
    EVENT_VARIABLES,
    HOOKS_VARIABLE,
    overrides,
    variables,
)
from syncd.exceptions import ConfigError, StrangersFileError
from syncd.trust import TlsFiles

__all__ = ["Config", "FolderSettings", "load"]

#: A token of the listener that is shorter can be guessed.
TOKEN_CHARS = 16
SANDBOX_VARIABLE = "AYMARA_AI_USE_SANDBOX"


def load(
    *,
    config: Path | None,
    directories: Sequence[Path] = (),
    environ: Mapping[str, str],
    working_directory: Path | None = None,
    to_sync: bool = True,
    names_in_use: Callable[[Path], Mapping[bytes, str]] = lambda _: {},
    problems: list[str] | None = None,
) -> Config:
    """Return the configuration that the file, `environ` and `directories` make together.

    `config` is the file that the command line named. `directories` replace the folders of the
    file; one that is configured there keeps its settings. A command that only looks needs neither
    key nor folder: `to_sync=False`. `names_in_use` returns the name of each folder, by its path,
    that the state in a directory knows. ConfigError lists every problem found. With a list of
    `problems` they are added to it instead where they can be, and what is wrong is left out.
    """
    here = working_directory or current_directory()
    return _Loader(environ, here, names_in_use).load(config, directories, to_sync, problems)


class _Loader:
    """One reading of the configuration: what was found where, and what is wrong with it."""

    def __init__(
        self,
        environ: Mapping[str, str],
        here: Path,
        names_in_use: Callable[[Path], Mapping[bytes, str]],
    ) -> None:
        self._environ = environ
        self._names_in_use = names_in_use
        self._here = here
        self._file: Path | None = None
        self._aymara: dict[str, str] = {}
        self._folders_from = ""
        #: why the file in the current directory is not used; empty when it is or there is none
        self._strangers = ""
        self._warnings: list[str] = []
        self._problems: list[str] = []
        #: the sections that the problems are about
        self._unusable: set[str] = set()
        #: the settings that are left out because they are wrong
        self._left_out: list[Location] = []

    def load(
        self,
        named: Path | None,
        directories: Sequence[Path],
        to_sync: bool,
        problems: list[str] | None,
    ) -> Config:
        warnings = self._warnings
        values = self._from_file(named)
        self._override(values)
        for section in Settings.model_fields.keys() - {"folders", "hooks"}:
            values.setdefault(section, {})
        self._watch(values, directories)
        sources = self._sources(values)
        self._default_state(values)
        settings = self._validated(values, leave_out=problems is not None)
        for location, source in sources.items():
            if any(place[: len(location)] == location for place in self._left_out):
                sources[location] = f"default, for that of {source} is wrong"
        credentials = self._credentials() if to_sync else Credentials()
        token = None
        if settings is not None:
            settings = completed(settings, self._names_in_use(settings.state.directory))
            self._problems.extend(self._conflicts(settings, to_sync))
            token = self._server_token(settings) if to_sync else None
            files = settings.api.tls_files
            if to_sync and (problem := tls_problem(files, self._source, self._environ, warnings)):
                self._problems.append(problem)
                self._unusable.add("api")
            self._see_who_reads_the_proxy(settings)
            if to_sync:
                warnings += targets.missing_programs(settings.alerts, settings.hooks)
        if settings is None or (self._problems and problems is None):
            raise ConfigError(*map(self._clean, self._problems))
        if problems is not None:
            problems += map(self._clean, self._problems)
        # Validated as it is, so that no other validator has to be built.
        return Config.model_construct(
            **{name: getattr(settings, name) for name in Settings.model_fields},
            credentials=credentials,
            server_token=token,
            file=self._file,
            # Folders that are only named elsewhere have their settings in the file.
            folders_source=FOLDERS_VARIABLE
            if self._folders_from == FOLDERS_VARIABLE
            else str(self._file or ""),
            folders_are_chosen=bool(directories),
            sources=sources,
            refused_file=self._strangers,
            warnings=tuple(warnings),
            unusable=frozenset(self._unusable),
        )

    # Sources

    def _from_file(self, named: Path | None) -> dict[str, Any]:
        """Return what the first file there is says, its paths made absolute."""
        chosen = chosen_file(named, self._environ)
        for path in config_files(named, self._environ, self._here):
            try:
                text = read_config(path, chosen=chosen is not None)
            except StrangersFileError as error:
                self._strangers = str(error)
                self._warnings.append(self._strangers)
                continue
            except (FileNotFoundError, NotADirectoryError) as error:
                if chosen:
                    origin = "--config" if named else FILE_VARIABLE
                    command = f"syncd -c {shlex.quote(str(path))} init"
                    raise ConfigError(
                        f"{origin}: there is no file {path}; `{command}` writes it"
                    ) from error
                continue
            except OSError as error:
                raise ConfigError(f"{path}: {keys.cannot_read(error)}") from error
            except UnicodeDecodeError as error:
                raise ConfigError(
                    f"{path} is not valid TOML: byte {error.start} is no UTF-8; save it as UTF-8"
                ) from error
            self._file = path
            try:
                values = tomllib.loads(text)
            except tomllib.TOMLDecodeError as error:
                raise ConfigError(f"{path} is not valid TOML: {error}") from error
            self._anchor(values, path.parent)
            return values
        return {}

    def _anchor(self, values: dict[str, Any], base: Path) -> None:
        """Make every path of the file absolute; what is no text is left for validation."""
        folders = values.get("folders")
        tables = [
            (values.get("state"), "state", "directory"),
            *((values.get("api"), "api", name) for name in TlsFiles._fields),
            (values.get("server"), "server", "token_file"),
            *(
                (folder, "folders", key)
                for folder in (folders if isinstance(folders, list) else [])
                for key in ("path", "move_to", "receipts")
            ),
        ]
        for table, section, key in tables:
            if isinstance(table, dict) and isinstance(table.get(key), str) and table[key]:
                try:
                    table[key] = str(absolute(table[key], base))
                except ConfigError as error:
                    self._problems.append(f"{self._source((section, key))}: {key} = {error}")
                    self._unusable.add(section)
        targets.anchor(values, base)

    def _override(self, values: dict[str, Any]) -> None:
        """Lay the environment over the file's `values`."""
        known = variables()
        given = overrides(self._environ, known)
        self._anchor(given, self._here)
        if "folders" in given:
            self._folders_from = FOLDERS_VARIABLE
        api = given.get("api", {})
        if {"environment", "base_url"} & api.keys() and isinstance(values.get("api"), dict):
            # Either names the service: what the file says of it is overridden as a whole.
            values["api"].pop("base_url", None)
            values["api"].pop("environment", None)
        for section, settings in given.items():
            if isinstance(settings, dict) and isinstance(values.get(section), dict):
                values[section] |= settings
            else:
                values[section] = settings
        self._fall_back(values)
        others = {FILE_VARIABLE, WATCH_VARIABLE, *EVENT_VARIABLES}
        for name in sorted(self._environ.keys() - known.keys() - others):
            if name.startswith("SYNCD_"):
                near = nearest(name, [*known, FILE_VARIABLE, WATCH_VARIABLE], cutoff=0.75)
                hint = f"; did you mean {near}?" if near else ""
                self._warnings.append(f"the environment variable {name} is not known{hint}")

    def _fall_back(self, values: dict[str, Any]) -> None:
        """Take what `AYMARA_AI_*` variables say where nothing of syncd's own says it."""
        api = values.setdefault("api", {})
        if not isinstance(api, dict):
            return
        if url := self._environ.get(URL_VARIABLE):
            if api.keys() & {"base_url", "environment"}:
                self._warnings.append(f"{URL_VARIABLE} is not used: syncd's own settings win")
            else:
                api["base_url"] = url
                self._aymara["base_url"] = URL_VARIABLE
        if "sandbox" not in api and (sandbox := self._environ.get(SANDBOX_VARIABLE)):
            api["sandbox"] = sandbox
            self._aymara["sandbox"] = SANDBOX_VARIABLE

    def _watch(self, values: dict[str, Any], directories: Sequence[Path]) -> None:
        """Let DIRs, or `SYNCD_WATCH`, take the place of the configured folders."""
        watched = self._environ.get(WATCH_VARIABLE)
        if watched and self._folders_from == FOLDERS_VARIABLE:
            self._problems.append(f"{WATCH_VARIABLE} and {FOLDERS_VARIABLE}: set only one of them")
        if not (directories or watched):
            return
        configured = values.get("folders")
        known = {
            folder.get("path"): folder
            for folder in (configured if isinstance(configured, list) else [])
            if isinstance(folder, dict)
        }
        self._folders_from = "the command line" if directories else WATCH_VARIABLE
        given: Sequence[Path | str] = directories or [watched or ""]
        paths = [str(absolute(path, self._here)) for path in given]
        values["folders"] = [known.get(path, {"path": path}) for path in dict.fromkeys(paths)]

    def _default_state(self, values: dict[str, Any]) -> None:
        state = values.setdefault("state", {})
        if isinstance(state, dict) and not state.get("directory"):
            directory = default_state_directory(self._environ)
            if directory is None:
                raise ConfigError(
                    f"no place for the state: this user has no home directory; set {STATE_VARIABLE}"
                )
            state["directory"] = str(directory)

    def _credentials(self) -> Credentials:
        try:
            return keys.load(self._environ, self._warnings)
        except ConfigError as error:
            self._problems.append(str(error))
            return Credentials()

    def _server_token(self, settings: Settings) -> SecretStr | None:
        """Return the token of the listener, None where it wants none; notes what is wrong."""
        server = settings.server
        where = f"{self._source(('server', 'token_file'))}: [server] token_file"
        if not server.listen or server.token_file is None:
            if server.listen and not server.is_loopback:
                self._problems.append(
                    f"{where}: is needed to listen on {server.listen}, which other machines can "
                    "reach: name a file that holds a token, or listen on 127.0.0.1"
                )
            return None
        try:
            token = keys.read_secret(server.token_file, where, self._environ, self._warnings)
        except ConfigError as error:
            self._problems.append(str(error))
            return None
        if len(token) < TOKEN_CHARS:
            self._problems.append(
                f"{where}: holds fewer than {TOKEN_CHARS} characters, which can be guessed; "
                "`openssl rand -hex 16` makes a good one"
            )
        return SecretStr(token)

    # Judgement

    def _validated(self, values: dict[str, Any], *, leave_out: bool) -> Settings | None:
        try:
            return Settings.model_validate(values)
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=False)
        for detail in details:
            place = detail["loc"]
            where = self._source(place)
            self._problems.append(described(place, detail["type"], detail["msg"], where))
            self._unusable.add(str(place[0]))
            self._left_out.append(place)
            remove(values, place)
        with suppress(ValidationError):
            return Settings.model_validate(values) if leave_out else None
        return None

    def _source(self, location: Location) -> str:
        if location[0] == "folders" and self._folders_from:
            is_named_only = self._folders_from != FOLDERS_VARIABLE and self._file
            if not (is_named_only and location[-1] != "path" and len(location) > 1):
                return self._folders_from
        if location[0] == "hooks" and self._environ.get(HOOKS_VARIABLE):
            return HOOKS_VARIABLE
        variable = "SYNCD_" + "__".join(str(part).upper() for part in location)
        if self._environ.get(variable):
            return variable
        if location[0] == "api" and location[-1] in self._aymara:
            return self._aymara[str(location[-1])]
        return str(self._file or "the configuration")

    def _sources(self, values: dict[str, Any]) -> dict[Location, str]:
        """Return where each setting that is given stands."""
        given: list[Location] = []
        for section, inside in values.items():
            tables = inside if isinstance(inside, list) else [inside]
            for number, table in enumerate(tables):
                head: Location = (section, number) if inside is tables else (section,)
                given += [(*head, key) for key in (table if isinstance(table, dict) else ())]
        return {location: self._source(location) for location in given}

    def _conflicts(self, settings: Settings, to_sync: bool) -> Iterator[str]:
        """Yield what is wrong between settings that are each right."""
        where = self._folders_from or str(self._file or "the configuration")
        if to_sync and not settings.folders and "folders" not in self._unusable:
            # A variable that was meant to name one, and is misspelled, is why.
            meant = (f"did you mean {name}?" for name in (WATCH_VARIABLE, FOLDERS_VARIABLE))
            misspelled = [said for said in self._warnings if said.endswith(tuple(meant))]
            lacking = (
                "no folder to watch: name one (syncd run DIR), set SYNCD_WATCH=/data, or add "
                "[[folders]] to syncd.toml (`syncd init` writes one)"
            )
            yield "; ".join(filter(None, [lacking, *misspelled, self._strangers]))
        yield from conflicts(settings, where)
        if to_sync:
            yield from exposed(settings, self._environ)
        yield from targets.conflicts(
            settings.alerts,
            settings.hooks,
            str(self._file or "the configuration"),
            allow_cleartext=settings.api.allow_cleartext,
        )

    def _see_who_reads_the_proxy(self, settings: Settings) -> None:
        """Warn where everyone may read a password that stands in the file."""
        source, file = self._source(("api", "proxy")), self._file
        if file is None or source != str(file) or "@" not in (settings.api.proxy or ""):
            return
        with suppress(OSError):
            if file.stat().st_mode & stat.S_IROTH:
                self._warnings.append(
                    f"{file}: everyone on this machine may read the file, and the proxy's password "
                    f"in it; run: chmod o-r {shlex.quote(str(file))}"
                )

    def _clean(self, message: str) -> str:
        for variable in (keys.KEY_VARIABLE, keys.TOKEN_VARIABLE):
            secret = self._environ.get(variable, "").strip()
            if len(secret) >= 6:
                message = message.replace(secret, "[secret]")
        return message

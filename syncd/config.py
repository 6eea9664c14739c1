"""The configuration: a TOML file, overridden by the environment, as frozen and validated values.

The file is the first there is of `--config`, `$SYNCD_CONFIG`, `./syncd.toml` and
`/etc/syncd/syncd.toml`. `SYNCD_` variables override it (`SYNCD_UPLOAD__WORKERS=4`), and both win
over the `AYMARA_AI_*` variables that users of the official client have set. Relative paths in the
file are relative to the file.
"""

import difflib
import hashlib
import json
import os
import shlex
import stat
import tomllib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_settings import EnvSettingsSource, SettingsError

from syncd import credentials as keys
from syncd.credentials import Credentials
from syncd.exceptions import ConfigError, StrangersFileError
from syncd.locations import (
    FILE_VARIABLE,
    STATE_VARIABLE,
    absolute,
    chosen_file,
    config_files,
    current_directory,
    default_state_directory,
    other_writers,
    read_config,
)
from syncd.places import look, nested
from syncd.settings import Config, Folder, Settings
from syncd.trust import TlsFiles, tls_context

__all__ = ["Config", "Folder", "load"]

BASE_URLS = {
    "production": "https://api.aymara.ai",
    "staging": "https://staging-api.aymara.ai",
    "development": "http://localhost:8000",
}
WATCH_VARIABLE, FOLDERS_VARIABLE = "SYNCD_WATCH", "SYNCD_FOLDERS"
#: A token of the listener that is shorter can be guessed.
TOKEN_CHARS = 16
URL_VARIABLE, SANDBOX_VARIABLE = "AYMARA_AI_BASE_URL", "AYMARA_AI_USE_SANDBOX"


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


_FOLDERS_FORM = 'write it as \'[{"path": "/data"}]\''
_HOSTS_FORM = "write it as '[\"host.example\"]'"
#: The variables that hold a list, and how to write each.
_LISTS = {
    FOLDERS_VARIABLE: _FOLDERS_FORM,
    "SYNCD_API__STORAGE_HOSTS": _HOSTS_FORM,
    "SYNCD_SERVER__ALLOWED_HOSTS": _HOSTS_FORM,
}
#: What a value of another type should have been, in TOML's words, by pydantic's kinds of errors.
_WANTED = {
    "bool_parsing": "should be true or false",
    "dict_type": "should be a table",
    "float_parsing": "should be a number",
    "float_type": "should be a number",
    "int_from_float": "should be a whole number",
    "int_parsing": "should be a whole number",
    "int_type": "should be a whole number",
    "missing": "is missing",
    "model_type": "should be a table",
    "path_type": "should be a path, in quotes",
    "string_type": "should be text, in quotes",
    "tuple_type": "should be a list",
}


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

    def load(
        self,
        named: Path | None,
        directories: Sequence[Path],
        to_sync: bool,
        problems: list[str] | None,
    ) -> Config:
        values = self._from_file(named)
        self._override(values)
        self._watch(values, directories)
        self._default_state(values)
        settings = self._validated(values, leave_out=problems is not None)
        credentials = self._credentials() if to_sync else Credentials()
        token = None
        if settings is not None:
            settings = _completed(settings, self._names_in_use(settings.state.directory))
            self._problems.extend(self._conflicts(settings, to_sync))
            token = self._server_token(settings) if to_sync else None
            if to_sync and (problem := self._tls_problem(settings)):
                self._problems.append(problem)
                self._unusable.add("api")
            self._see_who_reads_the_proxy(settings)
        if settings is None or (self._problems and problems is None):
            raise ConfigError(self._clean("\n".join(self._problems)))
        if problems is not None:
            problems += map(self._clean, self._problems)
        return Config.model_validate(
            {name: getattr(settings, name) for name in Settings.model_fields}
            | {
                "credentials": credentials,
                "server_token": token,
                "file": self._file,
                # Of folders that are only named elsewhere, the file has the settings.
                "folders_source": FOLDERS_VARIABLE
                if self._folders_from == FOLDERS_VARIABLE
                else str(self._file or ""),
                "folders_are_chosen": bool(directories),
                "refused_file": self._strangers,
                "warnings": tuple(self._warnings),
                "unusable": frozenset(self._unusable),
            }
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
                raise ConfigError(
                    f"cannot read {path}: {error.strerror}; it must be a file that user "
                    f"{os.getuid()} may read"
                ) from error
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
                for key in ("path", "move_to")
            ),
        ]
        for table, section, key in tables:
            if isinstance(table, dict) and isinstance(table.get(key), str) and table[key]:
                try:
                    table[key] = str(absolute(table[key], base))
                except ConfigError as error:
                    self._problems.append(f"{self._source((section, key))}: {key} = {error}")
                    self._unusable.add(section)

    def _override(self, values: dict[str, Any]) -> None:
        """Lay the environment over the file's `values`."""
        known = _variables()
        overrides = _overrides(self._environ, known)
        self._anchor(overrides, self._here)
        if "folders" in overrides:
            self._folders_from = FOLDERS_VARIABLE
        api = overrides.get("api", {})
        if {"environment", "base_url"} & api.keys() and isinstance(values.get("api"), dict):
            # Either names the service: what the file says of it is overridden as a whole.
            values["api"].pop("base_url", None)
            values["api"].pop("environment", None)
        for section, settings in overrides.items():
            if isinstance(settings, dict) and isinstance(values.get(section), dict):
                values[section] |= settings
            else:
                values[section] = settings
        self._fall_back(values)
        for name in sorted(self._environ.keys() - known.keys() - {FILE_VARIABLE, WATCH_VARIABLE}):
            if name.startswith("SYNCD_"):
                near = _nearest(name, [*known, FILE_VARIABLE, WATCH_VARIABLE], cutoff=0.75)
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
            self._problems.append(self._describe(detail["loc"], detail["type"], detail["msg"]))
            self._unusable.add(str(detail["loc"][0]))
            _remove(values, detail["loc"])
        with suppress(ValidationError):
            return Settings.model_validate(values) if leave_out else None
        return None

    def _describe(self, location: tuple[int | str, ...], kind: str, message: str) -> str:
        """Say what is wrong with one setting, where it stands, and what is right."""
        where, path = self._source(location), _setting(location)
        if kind != "extra_forbidden":
            text = _WANTED.get(kind) or message.removeprefix("Value error, ").removeprefix("Input ")
            if where == FOLDERS_VARIABLE and kind in ("tuple_type", "model_type"):
                text = _FOLDERS_FORM
            elif location == ("folders",):
                text += "; in a file each folder is a table of its own: [[folders]]"
            return f"{where}: {path}: {text[:1].lower()}{text[1:]}"
        key = str(location[-1])
        if key in ("api_key", "key", "bearer_token", "token_file"):
            return (
                f"{where}: {path}: a key never stands here; use {keys.KEY_VARIABLE} or "
                f"{keys.KEY_FILE_VARIABLE}"
            )
        known = _known_keys(location[:-1])
        near = _nearest(key, known)
        hint = f"did you mean {near}?" if near else f"known are {', '.join(known)}"
        return f"{where}: {path}: unknown setting; {hint}"

    def _source(self, location: tuple[int | str, ...]) -> str:
        if location[0] == "folders" and self._folders_from:
            return self._folders_from
        variable = "SYNCD_" + "__".join(str(part).upper() for part in location)
        if self._environ.get(variable):
            return variable
        if location[0] == "api" and location[-1] in self._aymara:
            return self._aymara[str(location[-1])]
        return str(self._file or "the configuration")

    def _conflicts(self, settings: Settings, to_sync: bool) -> Iterator[str]:
        """Yield what is wrong between settings that are each right."""
        folders = settings.folders
        where = self._folders_from or str(self._file or "the configuration")
        if to_sync and not folders:
            # A variable that was meant to name one, and is misspelled, is why.
            meant = (f"did you mean {name}?" for name in (WATCH_VARIABLE, FOLDERS_VARIABLE))
            misspelled = [said for said in self._warnings if said.endswith(tuple(meant))]
            lacking = (
                "no folder to watch: name one (syncd run DIR), set SYNCD_WATCH=/data, or add "
                "[[folders]] to syncd.toml (`syncd init` writes one)"
            )
            yield "; ".join(filter(None, [lacking, *misspelled, self._strangers]))
        for name, count in Counter(folder.name for folder in folders).items():
            if name == "*":
                yield f"{where}: a folder cannot have the name '*'; give it another one"
            if count > 1:
                yield f"{where}: {count} folders have the name {name!r}; give each its own name"
        state = look(settings.state.directory)
        places = {folder.path: look(folder.path) for folder in folders}
        by_path = nested([os.fsencode(places[folder.path].real) for folder in folders])
        on_disk = nested([places[folder.path].key_on_disk for folder in folders])
        for index, folder in enumerate(folders):
            here = places[folder.path]
            for other in by_path.get(index, ()):
                yield (
                    f"{where}: the folders {folders[other].path} and {folder.path} overlap; watch "
                    "only the outer one, and exclude what you do not want"
                )
            for other in sorted({*on_disk.get(index, ())} - {*by_path.get(index, ())}):
                yield (
                    f"{where}: the folders {folders[other].path} and {folder.path} are one "
                    "directory that is mounted twice, or one is within the other; watch it at one "
                    "path only"
                )
            if here.overlaps(state):
                yield (
                    f"{where}: the state directory {settings.state.directory} and the folder "
                    f"{folder.path} overlap; set [state] directory (SYNCD_STATE__DIRECTORY) to a "
                    "place outside"
                )
        for folder in folders:
            if folder.move_to is None:
                continue
            target = look(folder.move_to)
            for place in (*places, settings.state.directory):
                if target.overlaps(places.get(place, state)):
                    yield (
                        f"{where}: the folder {folder.path}: move_to = {folder.move_to} overlaps "
                        f"with {place}; move files to a place outside every watch folder"
                    )

    def _tls_problem(self, settings: Settings) -> str | None:
        """Return what is wrong with the files for TLS."""
        files, with_key = settings.api.tls_files, set()
        for name, path in files._asdict().items():
            if path is None:
                continue
            where = f"{self._source(('api', name))}: {name} {path}"
            try:
                if b"PRIVATE KEY" in path.read_bytes():
                    with_key.add(name)
                    keys.read_private(path, where, self._environ, self._warnings)
                elif writers := other_writers(path.stat()):
                    shown = shlex.quote(str(path))
                    return f"{where}: {writers} may write the file; run: chmod go-w {shown}"
            except OSError as error:
                return f"{where}: {keys.cannot_read(error)}"
            except ConfigError as error:
                return str(error)
        if files.client_key and not files.client_cert:
            return f"{self._source(('api', 'client_key'))}: client_key: needs client_cert, too"
        if files.client_cert and not files.client_key and "client_cert" not in with_key:
            where = f"{self._source(('api', 'client_cert'))}: client_cert {files.client_cert}"
            return f"{where}: it holds no private key; name the file of its key in client_key"
        try:
            if any(files):
                tls_context(files)
        except ConfigError as error:
            # It begins with the setting.
            return f"{self._source(('api', str(error).split()[0]))}: {error}"
        return None

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


def _completed(settings: Settings, in_use: Mapping[bytes, str]) -> Settings:
    """Fill in what a setting takes from another one; `in_use` are names of folders by path."""
    api = settings.api
    api = api.model_copy(update={"base_url": api.base_url or BASE_URLS[api.environment]})
    folders: list[Folder] = []
    names = _default_names(settings.folders, in_use)
    for folder in settings.folders:
        given = folder.model_fields_set
        update: dict[str, Any] = {}
        if not folder.name:
            update["name"] = names[folder.path]
        if "workspace_uuid" not in given:
            update["workspace_uuid"] = api.workspace_uuid
        for name in ("grace_seconds", "hold_files", "hold_percent", "hold_max"):
            if name not in given:
                update[name] = getattr(settings.deletions, name)
        folders.append(folder.model_copy(update=update))
    return settings.model_copy(update={"api": api, "folders": tuple(folders)})


def _default_names(folders: Sequence[Folder], in_use: Mapping[bytes, str]) -> dict[Path, str]:
    """Return a name for each folder without one: the one in use for its path, which stays.

    Else the last segment of its path; with a digest of the path where another folder, configured
    or known, has or would have that name. The order of the folders does not matter.
    """
    given = {folder.name for folder in folders if folder.name}
    nameless = [folder.path for folder in folders if not folder.name]
    segments = Counter(_segment(path) for path in nameless)
    names: dict[Path, str] = {}
    for path in nameless:
        kept = in_use.get(os.fsencode(path)) or in_use.get(os.fsencode(look(path).real))
        name = _segment(path)
        if kept is not None and kept not in given:
            name = kept
        elif name == "*" or segments[name] > 1 or name in given or name in in_use.values():
            # A hold on "*" is one on everything.
            name = f"{name}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:6]}"
        names[path] = name
    return names


def _segment(path: Path) -> str:
    segment = os.fsencode(path.name).decode("utf-8", "backslashreplace") or "root"
    return "".join(char if char.isprintable() else "_" for char in segment)[:80]


def _variables() -> dict[str, tuple[str, ...]]:
    """Return every `SYNCD_` variable with the setting for which it stands."""
    sections = ((section, field.annotation) for section, field in Settings.model_fields.items())
    variables = {
        f"SYNCD_{section}__{key}".upper(): (section, key)
        for section, model in sections
        if isinstance(model, type) and issubclass(model, BaseModel)
        for key in model.model_fields
    }
    return {**variables, FOLDERS_VARIABLE: ("folders",)}


class _Environment(EnvSettingsSource):
    """Reads `SYNCD_` variables from a mapping that is handed in, known ones alone."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = {name.lower(): value for name, value in variables.items()}
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name: value for name, value in self._variables.items() if value}


def _overrides(environ: Mapping[str, str], variables: Collection[str]) -> dict[str, Any]:
    """Return what `variables` say, as the file would; an empty one says nothing."""
    given = {name: value for name, value in environ.items() if name in variables}
    try:
        return _Environment(given)()
    except SettingsError:
        # The cause holds the value, which may be a secret.
        raise ConfigError(_not_json(given)) from None


def _not_json(given: Mapping[str, str]) -> str:
    """Say which variable is not the JSON that it should be, and how to write it."""
    for name, form in _LISTS.items():
        try:
            json.loads(given.get(name) or "[]")
        except ValueError:
            return f"{name} is not valid JSON; {form}"
    return f"{', '.join(_LISTS)}: one of them is not valid JSON"


def _remove(values: Any, location: tuple[int | str, ...]) -> None:
    """Remove the setting at `location`; where it is missing, the table that lacks it."""
    table, key, inside = values, location[0], values
    for part in location:
        if isinstance(inside, dict) and part in inside:
            table, key = inside, part
        elif not (isinstance(inside, list) and isinstance(part, int)):
            break
        inside = inside[part]
    table.pop(key, None)


def _known_keys(parents: tuple[int | str, ...]) -> list[str]:
    if not parents:
        return list(Settings.model_fields)
    model = Folder if parents[0] == "folders" else Settings.model_fields[str(parents[0])].annotation
    return list(model.model_fields) if isinstance(model, type(BaseModel)) else []


def _nearest(word: str, known: Sequence[str], cutoff: float = 0.6) -> str | None:
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=cutoff)), None)


def _setting(location: tuple[int | str, ...]) -> str:
    """Write where a setting stands as the file would: `[upload] workers`, `folders[1] path`."""
    head, *rest = location
    if head == "folders" and rest:
        number, *keys_ = rest
        shown = f"[[folders]] number {number + 1 if isinstance(number, int) else number}"
        return " ".join([shown, *(str(key) for key in keys_ if isinstance(key, str))])
    return " ".join([f"[{head}]" if rest else str(head), *map(str, rest)])

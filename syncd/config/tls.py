"""The files for TLS: what is wrong with them, in words."""

import shlex
from collections.abc import Callable, Mapping

from syncd.config import credentials as keys
from syncd.config.locations import other_writers
from syncd.config.problems import Location
from syncd.exceptions import ConfigError
from syncd.trust import TlsFiles, tls_context


def tls_problem(
    files: TlsFiles,
    source: Callable[[Location], str],
    environ: Mapping[str, str],
    warnings: list[str],
) -> str | None:
    """Return what is wrong with the files; `source` tells where a setting stands.

    Add to `warnings`.
    """
    with_key = set()
    for name, path in files._asdict().items():
        if path is None:
            continue
        where = f"{source(('api', name))}: {name} {path}"
        try:
            if b"PRIVATE KEY" in path.read_bytes():
                with_key.add(name)
                keys.read_private(path, where, environ, warnings)
            elif writers := other_writers(path.stat()):
                shown = shlex.quote(str(path))
                return f"{where}: {writers} may write the file; run: chmod go-w {shown}"
        except OSError as error:
            return f"{where}: {keys.cannot_read(error)}"
        except ConfigError as error:
            return str(error)
    if files.client_key and not files.client_cert:
        return f"{source(('api', 'client_key'))}: client_key: needs client_cert, too"
    if files.client_cert and not files.client_key and "client_cert" not in with_key:
        where = f"{source(('api', 'client_cert'))}: client_cert {files.client_cert}"
        return f"{where}: it holds no private key; name the file of its key in client_key"
    try:
        if any(files):
            tls_context(files)
    except ConfigError as error:
        # It begins with the setting.
        return f"{source(('api', str(error).split()[0]))}: {error}"
    return None

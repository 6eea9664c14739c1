"""Every error that syncd raises on purpose.

SyncdError
├── ConfigError            the configuration cannot be used (exit 78)
│   └── StrangersFileError the file that is there belongs to somebody whom nobody here trusts
├── StateError             the state database cannot be used
│   ├── NoStateError       there is none yet, or a first start was cut short while it was made
│   ├── ForeignStateError  it is another program's, another service's, or newer (exit 78)
│   ├── StateLockedError   another instance runs (exit 75)
│   ├── DamagedStateError  the database is ours, and damaged: a person restores it (exit 78)
│   └── StateWriteError    a commit failed: its outcome is unknown, nothing may be sent on it
├── DiskError              a file cannot be read as it should be
│   ├── FileChangedError   it is no longer what it was when it was looked at
│   └── UnreadableError    it is there, or may be, and cannot be read
├── StandstillError        a hold, such as a pause, stops the folder of a file that is being sent
├── ShortageError          this process is out of open files or memory: it says nothing of any file
└── FilesApiError          a call to the Files API failed (see `syncd.files_api.errors`)

A message says what failed, where, and what to do. No message carries a secret.
"""


class SyncdError(Exception):
    """The root: catch this for all that syncd raises on purpose."""

    #: with which a command ends that meets it
    exit_code: int = 1


class ConfigError(SyncdError):
    """The configuration cannot be used; each problem names the setting and the remedy."""

    exit_code = 78

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class StrangersFileError(ConfigError):
    """The file that is there belongs to somebody whom nobody here trusts."""


class StateError(SyncdError):
    """The state database cannot be used."""


class NoStateError(StateError):
    """The state directory holds no state: the next `run` or `once` makes it."""


class ForeignStateError(StateError):
    """The state belongs to another program, service or schema; it is left untouched."""

    exit_code = 78


class StateLockedError(StateError):
    """Another instance holds the state directory."""

    exit_code = 75


class DamagedStateError(StateError):
    """The database is this instance's own, and damaged; the message says how to restore it."""

    exit_code = 78


class StateWriteError(StateError):
    """A commit failed, so its outcome is unknown: believe only what is read afterwards."""


class DiskError(SyncdError):
    """A file cannot be read as it should be."""


class FileChangedError(DiskError):
    """The file is no longer what it was when it was looked at."""


class UnreadableError(DiskError):
    """The file is there, or may be, and cannot be read."""


class StandstillError(SyncdError):
    """A hold, such as a pause, stops the folder: the transfer is dropped before its last byte."""


class ShortageError(SyncdError):
    """Open files or memory have run out: it heals, and says nothing of any file."""

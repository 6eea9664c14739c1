"""The findings of `doctor`: what was examined, whether it is well, and how to mend it."""

from dataclasses import dataclass

from syncd.exceptions import ConfigError


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing; `good` is None when it was not examined, and `fix` says how to mend a bad one."""

    name: str
    good: bool | None
    text: str
    fix: str = ""
    #: the exit code of `doctor` when this is the gravest finding
    code: int = 0


def bad(name: str, text: str, fix: str, code: int = 1) -> Finding:
    """Return a finding that something is not as it should be."""
    return Finding(name, good=False, text=text, fix=fix, code=code)


def unchecked(name: str, why: str) -> Finding:
    """Return a finding that something was not examined."""
    return Finding(name, good=None, text=f"not checked: {why}")


def exit_code(findings: list[Finding]) -> int:
    """Return the code for the gravest: the configuration, the key, anything, nothing."""
    codes = {finding.code for finding in findings if finding.good is False}
    return next((code for code in (ConfigError.exit_code, 77, 1) if code in codes), 0)

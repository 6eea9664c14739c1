"""How an emulator is to behave."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from syncd.emulator.personalities import Personality

#: The organization of every key, where keys are not told apart.
ORGANIZATION = "00000000-0000-4000-8000-0000000000aa"


@dataclass(frozen=True, slots=True)
class Settings:
    """What can be chosen; sizes in bytes, times in seconds."""

    #: key -> organization's uuid; empty: any key is accepted
    api_keys: Mapping[str, str] = field(default_factory=dict)
    personality: Personality = field(default_factory=Personality)
    #: where clients reach the emulator, for presigned URLs; None: where the request went
    public_url: str | None = None
    #: the largest upload; None: no limit
    max_body: int | None = None
    #: requests a second, of all clients together; None: no limit
    rate_limit: float | None = None
    #: the least time that a video takes
    processing_seconds: float = 0.0
    #: how long presigned URLs are valid
    url_seconds: float = 1800.0
    #: whether remote files may be fetched from addresses that are not public
    private_uris: bool = False

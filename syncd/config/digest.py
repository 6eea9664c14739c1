"""Digests of a configuration, by which two are compared without showing either."""

import json
from hashlib import sha256

from syncd.config.loading import Config
from syncd.config.settings import Settings


def digests(config: Config) -> dict[str, str]:
    """Return a digest of each section's settings, of which secrets are no part."""
    found = {}
    for section in Settings.model_fields:
        # pydantic writes a secret as stars.
        values = config.model_dump(mode="json", include={section})
        found[section] = sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
    return found

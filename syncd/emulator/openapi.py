"""The OpenAPI description of what the emulator serves."""

from typing import Any


def description() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    return {"openapi": "3.1.0"}

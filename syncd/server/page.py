"""The status page: one static file, and the policy that lets in nothing but it.

Its only style and its only script stand in it, and are named by their digests; it asks nobody but
the listener that it came from.
"""

import re
from base64 import b64encode
from hashlib import sha256
from importlib import resources

PATH = "/"
HTML = resources.files(__package__).joinpath("page.html").read_bytes()


def _digest(tag: bytes) -> str:
    """Return the source expression of the one element `tag` of the page."""
    (text,) = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), HTML, re.DOTALL)
    return f"'sha256-{b64encode(sha256(text).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; script-src {_digest(b'script')}; style-src {_digest(b'style')}; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'"
)

"""The status page: one static file, and a content security policy that admits nothing else.

Its style and its script are inline and admitted by their digests; it fetches only from the
listener that served it.
"""

import re
from base64 import b64encode
from hashlib import sha256
from importlib import resources

PATH = "/"
HTML = resources.files(__package__).joinpath("page.html").read_bytes()


def _digest(tag: bytes) -> str:
    """Return the policy's source expression for the page's only element `tag`."""
    (text,) = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), HTML, re.DOTALL)
    return f"'sha256-{b64encode(sha256(text).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; script-src {_digest(b'script')}; style-src {_digest(b'style')}; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'"
)

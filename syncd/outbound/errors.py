"""The ways in which a delivery ends without success."""

from syncd.exceptions import SyncdError


class UndeliveredError(SyncdError):
    """The target did not take the document, or nobody knows whether it did; the message says why.

    No message carries a secret.
    """


class StoppedError(SyncdError):
    """The delivery was cut short because syncd ends; it says nothing of the target."""

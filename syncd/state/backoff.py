"""When to try again: a pure function of what went wrong and how often."""

import random

#: Seconds before the second try, doubled with each further one.
FIRST_SECONDS = 1.0
#: The longest wait between two tries, unless the server asks for more.
LONGEST_SECONDS = 300.0
#: The bounds to which a server's Retry-After is clamped.
SHORTEST_ASKED_SECONDS, LONGEST_ASKED_SECONDS = 1.0, 3600.0


def backoff_seconds(attempts: int, *, asked: float | None = None) -> float:
    """Return the seconds to wait after the `attempts`-th failure (the first is 1).

    Doubling with full jitter upwards of a half, so that a thousand files that failed together do
    not come back together. What the server `asked` for is obeyed as it is, between a second and an
    hour.
    """
    if asked is not None:
        return min(max(asked, SHORTEST_ASKED_SECONDS), LONGEST_ASKED_SECONDS)
    ceiling: float = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(attempts - 1, 30))
    return ceiling * (0.5 + 0.5 * random.random())  # noqa: S311 - no secret


def refusal_seconds(refusals: int) -> float:
    """Return the seconds until content that the service refused is sent again.

    Longer than a back-off: each try sends the whole content.
    """
    longest: float = min(LONGEST_ASKED_SECONDS, 2.0 * 4.0 ** min(refusals - 1, 10))
    return longest


def poll_seconds(polls: int, *, first: float, longest: float) -> float:
    """Return the seconds before the next look at a video, growing by half with each look."""
    wait: float = first * 1.5 ** min(polls, 60)
    return min(longest, wait)

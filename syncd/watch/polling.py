"""How often what gives no events is scanned."""

#: The largest share of the time that polling a folder takes, and the shortest pause in seconds.
PART, SHORTEST_SECONDS = 0.05, 5.0
#: Seconds of work for each scan of a folder beside the scan itself.
STEP_SECONDS = 0.0025


class Polling:
    """The folders that are polled as a whole: many of them together may not take up a CPU."""

    def __init__(self) -> None:
        self._folders: set[str] = set()

    def note(self, folder: str, *, is_polled: bool) -> None:
        """Note whether a folder is polled as a whole."""
        if is_polled:
            self._folders.add(folder)
        else:
            self._folders.discard(folder)

    def pause(self, seconds: float) -> float:
        """Return the seconds until a folder is polled again whose scan took so many."""
        together = len(self._folders) * STEP_SECONDS
        return max(SHORTEST_SECONDS, together / PART, seconds / PART - seconds)

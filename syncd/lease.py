"""Leases, by which the kernel tells whether somebody has a file open. A leaf."""

import errno
import fcntl
import signal

#: The number that Linux gives it; Python's fcntl does not name it.
_F_SETSIG = 10


def is_open_for_writing(descriptor: int) -> bool | None:
    """Return whether anybody has an open file open for writing; None if the kernel does not tell.

    It grants a read lease only on a file that nobody has open for writing, and only to the owner
    of the file or with CAP_LEASE. Whoever opens the file while the lease is held waits for its end,
    which comes at once.
    """
    try:
        # The holder of a lease that somebody waits for is sent a signal: one that does no harm.
        fcntl.fcntl(descriptor, _F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False

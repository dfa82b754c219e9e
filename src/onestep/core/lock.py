"""One process at a time: a lock on an open file, which the system lets go when the process ends, however."""

from typing import IO, Any


def lock(file: IO[Any]) -> bool:
    """Take the lock of a file, for as long as it is open; False where another process has it.

    On systems without such locks (Windows), everybody gets it.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True

"""Memory that was freed, and that the C library keeps."""

import ctypes
from contextlib import suppress


def release_memory() -> None:
    """Hand freed memory back to the system, where the C library would keep it (glibc); else nothing."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)

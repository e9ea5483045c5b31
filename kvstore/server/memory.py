"""Giving memory back to the system."""

import ctypes


def give_back() -> None:
    """Return what the allocator keeps of freed memory, where it can (glibc's malloc_trim).

    The allocator keeps everything below the last piece in use, which after thousands of long answers is nearly all of
    it. Takes some milliseconds for a hundred MiB, so only for when much has become free.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

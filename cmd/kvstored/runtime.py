"""How the interpreter and the process are set up for a server of one busy loop."""

import gc
import os
import resource
import socket
import sys
from collections.abc import Mapping

SWITCH_INTERVAL = 0.001
"""Seconds. A worker thread that wants the interpreter lock (name lookups, reading a snapshot) gets it from a busy loop
after this long; Python's default of 5 ms would make each of its steps wait that long."""

GC_THRESHOLDS = (10_000, 10, 1_000)
"""Nearly everything a request makes dies by its reference count. Python by default looks for cycles every 700 new
objects, among them all watchers, connections and caches; this seldom, it cannot be seen in the latency of requests.
More seldom, it can: a look at 50,000 new objects that are garbage, such as the calls that a lost leader leaves, takes
50 ms, and one at the survivors of twenty such rounds longer."""


def hurry() -> None:
    """Look for no cycles until `settle`: what is made at start stays."""
    gc.disable()


def tune() -> None:
    """Set up the interpreter; before the loop starts."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.set_threshold(*GC_THRESHOLDS)


def settle() -> None:
    """To be called once a member is up: what lives now lives on, and is never again looked through for cycles."""
    # Without a collection first: the little that start left in cycles is not worth the time of the first requests.
    gc.freeze()
    gc.enable()


def kind_of_modules() -> str:
    """How the modules that can be compiled (setup.py) are run: `compiled` or `interpreted`."""
    import raft.raft  # here, so that --help need not wait for it

    return "interpreted" if raft.raft.__file__.endswith(".py") else "compiled"


def raise_descriptor_limit() -> tuple[int, int]:
    """Allow as many file descriptors as the system lets this process have. The limit before and after."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        # Some systems report a hard limit (infinity) that they do not grant.
        return soft, soft
    return soft, hard


def notify_service_manager(state: str, environ: Mapping[str, str]) -> None:
    """Tell systemd a state, such as READY=1, if it waits to be told (a unit of Type=notify)."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
        # A leading @ stands for the zero byte of Linux's abstract names.
        notify.sendto(state.encode(), os.fsencode(address.replace("@", "\0", 1)))

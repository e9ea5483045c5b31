"""Compiles a part of the modules with mypyc, where asked to: `KVSTORE_COMPILE=1 pip install .`

Everything else about the package is in pyproject.toml. Without the variable, and always in an editable install and a
source distribution, this adds nothing, and neither mypy nor a C compiler is needed. The sources are plain typed
Python either way and go along in the wheel; of a module that is there in both forms Python takes the compiled one.

KVSTORE_COMPILE_OPT is the C compiler's optimisation level, 3 if it is not set. At 0 it takes a third of the time, for
tests.
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

# What a put passes through from its socket to the journal and back, and the consensus. All of it becomes one library,
# in which calls are direct and attributes are fields; what is not in it is called as by any other Python code. A module
# belongs here if the server needs measurably less time a request with it (docs/performance.md), or if its class
# inherits from one in here: of compiled classes only compiled ones can.
COMPILED = (
    "raft/*.py",
    "kvstore/wire.py",
    "kvstore/mvcc/*.py",
    *(
        f"kvstore/storage/{name}.py"
        for name in (
            "batch",
            "frames",
            "journal",
            "journaled",
            "leaves",
            "messages",
            "overlay",
            "sectors",
            "table",
            "transaction",
            "wal",
        )
    ),
    *(f"kvstore/peer/{name}.py" for name in ("batches", "receiving", "sending")),
    *(f"kvstore/server/{name}.py" for name in ("apply", "headers", "outbox", "proposals", "proposer", "ready_loop")),
    *(
        f"kvstore/rpc/{name}.py"
        for name in (
            "backlog",
            "answering_connection",
            "call",
            "client_call",
            "client_protocol",
            "context",
            "framing",
            "h2",
            "incoming",
            "loop",
            "metadata",
            "method",
            "observer",
            "outgoing",
            "promise",
            "sending_connection",
            "server_connection",
            "server_protocol",
        )
    ),
)
# What the patterns above should not cover: exceptions, which inherit from the interpreter's; MemoryStorage, which is
# there to be built upon; and modules that only say what a package exports.
INTERPRETED = frozenset({"raft/errors.py", "raft/storage.py", "raft/__init__.py", "kvstore/mvcc/__init__.py"})

# The build knows the types of this package and of the standard library alone, so that it is the same everywhere.
MYPY = ("--config-file=", "--no-site-packages", "--ignore-missing-imports", "--follow-imports=silent")


def extensions() -> list[Extension]:
    """The library and, for each module, what stands for it; nothing unless a wheel is built and they are wanted."""
    if os.environ.get("KVSTORE_COMPILE", "0") in ("", "0") or "bdist_wheel" not in sys.argv:
        return []
    from mypyc.build import mypycify  # here, for only this build has it

    root = Path(__file__).parent
    found: set[str] = set()
    for pattern in COMPILED:
        matching = {path.relative_to(root).as_posix() for path in root.glob(pattern)}
        if not matching:
            sys.exit(f"setup.py: there is no {pattern} to compile")
        found |= matching
    built: list[Extension] = mypycify(
        [*MYPY, *sorted(found - INTERPRETED)],
        opt_level=os.environ.get("KVSTORE_COMPILE_OPT", "3"),
        group_name="kvstore",
    )
    for extension in built:
        # Looking for it in a single file of 40 MB takes longer than compiling it.
        extension.extra_compile_args.append("-Wno-misleading-indentation")
    return built


setup(ext_modules=extensions())

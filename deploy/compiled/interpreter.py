"""Prints the interpreter that runs Python code fastest, of those here that can have an environment and extensions.

Arguments are programs to consider before the usual ones. Measured, because nothing tells: how an interpreter was built
makes 10 to 25%, and those that were built with profiles of their own use, as Debian's, do not always say so in
`sysconfig`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable

USUAL = ("python3", "python3.14", "python3.13", "python3.12", "python3.11", "/usr/bin/python3")
# A candidate takes the place of one before it if it is faster by more than such a measurement is wrong by.
WORTHWHILE = 0.95

PROBE = """
import sys, sysconfig, os, time
assert sys.version_info >= (3, 11) and sys.implementation.name == "cpython"
import ensurepip, venv
assert os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))
class Row:
    __slots__ = ("key", "number")
    def __init__(self, key, number):
        self.key = key
        self.number = number
    def size(self):
        return len(self.key) + self.number
def work():
    rows, total = {}, 0
    for number in range(20000):
        key = b"%d" % (number & 1023)
        rows[key] = row = Row(key, number)
        total += row.size() & 255
        if key in rows and number & 3:
            total += rows[key].number
    return total
best = 1e9
for _ in range(15):
    begun = time.process_time()
    work()
    best = min(best, time.process_time() - begun)
print(sys.executable, best)
"""


def probe(program: str) -> tuple[str, float] | None:
    """The interpreter's own path and the seconds that it takes, or None if it cannot be used."""
    path = shutil.which(program)
    if path is None:
        return None
    done = subprocess.run([path, "-I", "-c", PROBE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if done.returncode != 0:
        return None
    executable, seconds = done.stdout.decode().rsplit(maxsplit=1)
    return executable, float(seconds)


def best(programs: Iterable[str]) -> str | None:
    """The path of the best of these, or None. Says on standard error what each takes."""
    chosen: tuple[str, float] | None = None
    seen: set[str] = set()
    for program in programs:
        found = probe(program)
        if found is None or os.path.realpath(found[0]) in seen:
            continue
        seen.add(os.path.realpath(found[0]))
        print(f"{found[0]}: {found[1] * 1e3:.2f} ms", file=sys.stderr)
        if chosen is None or found[1] < chosen[1] * WORTHWHILE:
            chosen = found
    return None if chosen is None else chosen[0]


if __name__ == "__main__":
    path = best((*sys.argv[1:], *USUAL))
    if path is None:
        sys.exit("there is no Python 3.11 or later with venv, ensurepip and its C headers (python3-venv, python3-dev)")
    print(path)

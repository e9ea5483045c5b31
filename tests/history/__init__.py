"""The history checker: was what the clients saw possible?

Every call of every client is recorded with its start and end and checked for linearizability, every watch for order,
gaps, duplicates and whole revisions. How to use it::

    recorder = Recorder()                                   # or Recorder(clock=simulation.now_ns)
    call = recorder.begin("client-3", Put(b"k", b"v"))      # before the request is sent
    recorder.answered(call, PutResult(revision=7))          # or .refused(call, "NoSpace"), or .unknown(call)
    watch = recorder.watch("client-4", b"\\0", b"\\0", start_revision=1, prev_kv=True)
    recorder.events(watch, header_revision, events)         # and .created, .progress, .canceled, .resumed
    report = check(recorder.history(), CheckOptions())      # report.ok, .violations, .undecided
    if not report.ok:
        write_failure(recorder.history(), report, Path("out"))  # history.jsonl, minimal.jsonl, minimal.html

convert.py makes operations, results and events of protobuf messages. By hand: `python -m tests.history check FILE...`.
A call whose error leaves any doubt is *unknown*, never *refused*.
"""

from tests.history.check import check
from tests.history.failure import write_failure
from tests.history.files import BadHistory, load, save
from tests.history.recorder import Recorder
from tests.history.report import CheckOptions, Report, Violation

__all__ = [
    "BadHistory",
    "CheckOptions",
    "Recorder",
    "Report",
    "Violation",
    "check",
    "load",
    "save",
    "write_failure",
]

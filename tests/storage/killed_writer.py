"""A writer process that kills itself: KILL_AT names the moment, KILL_KEY the row that must be among those written.

KILL_WITH names the signal, SIGKILL unless given.
"""

import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

from kvstore.storage import engine, writer_process
from kvstore.storage.batch import Operation
from kvstore.storage.transaction import WriteTransaction

MOMENT = os.environ["KILL_AT"]
KEY = os.environ["KILL_KEY"].encode()
SIGNAL = signal.Signals[os.environ.get("KILL_WITH", "SIGKILL")]


def die() -> None:
    os.kill(os.getpid(), SIGNAL)


def die_if(moment: str) -> None:
    if moment == MOMENT:
        die()


class DyingEngine(engine.Engine):
    """Dies around the commit of the row."""

    def commit(self, batches: Sequence[Sequence[Operation]]) -> Any:
        marked = any(KEY in payload for operations in batches for _, _, payload in operations)
        if marked:
            die_if("before_transaction")
        stats = super().commit(batches)
        if marked:
            die_if("after_commit")
        return stats


def dying_in(moment: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        die_if(moment)
        return function(*arguments, **named)

    return call


def execute(txn: WriteTransaction, operations: Sequence[Operation]) -> None:
    EXECUTE(txn, operations)
    if any(KEY in payload for _, _, payload in operations):
        die_if("before_commit")


EXECUTE = WriteTransaction.execute

if __name__ == "__main__":
    if KEY:
        setattr(WriteTransaction, "execute", execute)  # noqa: B010
    else:
        setattr(engine.Engine, "swap_in", dying_in("before_swap", engine.Engine.swap_in))  # noqa: B010
        setattr(engine.Engine, "close", dying_in("before_unlink", engine.Engine.close))  # noqa: B010
        engine.sync_directory = dying_in("after_rename", engine.sync_directory)
        os.replace = dying_in("before_rename", os.replace)
    setattr(writer_process, "Engine", DyingEngine)  # noqa: B010
    writer_process.main()

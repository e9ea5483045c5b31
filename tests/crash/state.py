"""A state of some size whose file is damaged bit by bit, and everything that can be asked of it.

The members of damage.py hold a hundred keys, which is no tree to speak of. Here a store without a member answers from a
copy of a file with branches, overflow pages and long keys, none of them free, after one bit of it was flipped: every
answer is compared with what the store said before, and all pages are looked at as a member does at its start and once a
day.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import lmdb

from kvstore.lease import lessor
from kvstore.lease.lessor import Lessor
from kvstore.mvcc import store
from kvstore.mvcc.puts import of_message
from kvstore.mvcc.store import Store
from kvstore.pb import rpc_pb2 as pb
from kvstore.storage import structure
from kvstore.storage.at_rest import check_environment
from kvstore.storage.backend import Backend, BackendOptions, open_inline
from kvstore.storage.engine import EngineOptions
from kvstore.storage.errors import CorruptStore, StorageError
from kvstore.storage.meta import META
from kvstore.storage.pages import DATA_FILE
from tests.crash.damage import Damage, Findings, flips
from tests.crash.examine import SECONDS, Outcome

Question = Callable[[Store, Lessor], bytes]

_TABLES = (*store.TABLES, *lessor.TABLES)
_OPTIONS = BackendOptions(engine=EngineOptions(map_size=1 << 26, unsafe_no_fsync=True))


class Specimen:
    """A state, and what is asked of it. directory: where it and its copies live."""

    def __init__(self, directory: Path, keys: int, seed: int) -> None:
        """keys: how many keys it holds; some more have been deleted."""
        self._directory = directory
        self.root = directory / "state"
        self.root.mkdir(parents=True)
        chance = Random(seed)
        names = sorted({b"key/%08x" % chance.getrandbits(32) for _ in range(keys)})
        backend, made, leases = _open(self.root)
        leases.grant(pb.LeaseGrantRequest(ID=7, TTL=1000), 0)
        for number, name in enumerate(names):
            made.put(of_message(pb.PutRequest(key=name, value=b"first %d " % number * 8, lease=7 * (number % 50 == 0))))
        middle = made.revision
        for name in chance.sample(names, keys // 2):
            made.put(of_message(pb.PutRequest(key=name, value=name * 5)))
        for name in chance.sample(names, keys // 20):
            made.delete_range(pb.DeleteRangeRequest(key=name))
        for number in range(5):
            made.put(of_message(pb.PutRequest(key=b"long/" + b"l" * 1000 + b"%d" % number, value=bytes(9000))))
        backend.flush()
        made.compact(middle)
        for name in chance.sample(names, keys // 5):
            made.put(of_message(pb.PutRequest(key=name, value=b"newest")))
        asyncio.run(backend.close())
        asyncio.run(_compact(self.root))
        self.questions = list(_questions(names, middle, made.revision, chance))
        backend, made, leases = _open(self.root)
        self._answers = [ask(made, leases) for ask in self.questions]
        asyncio.run(backend.close())

    def suffer_all(self, count: int, seed: int) -> Findings:
        """So many flipped bits in each kind of page, one after the other."""
        damages = [damage for damage in flips(self.root, count, seed) if damage.path == DATA_FILE]
        return Findings([(damage, *self.suffer(damage)) for damage in damages])

    def suffer(self, damage: Damage) -> tuple[Outcome, str]:
        """What comes of one damage."""
        copy = self._directory / "copy"
        copy.mkdir()
        shutil.copyfile(self.root / DATA_FILE, copy / DATA_FILE)
        damage.inflict(copy, copy)
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            signal.alarm(SECONDS)
            # First, for the answers may end the process.
            os.write(writing, json.dumps(_look(copy)[:2000]).encode() + b"\n")
            outcome, said = self._examine(copy)
            os.write(writing, json.dumps([outcome, said[:2000]]).encode())
            os._exit(0)
        os.close(writing)
        with open(reading, "rb") as pipe:
            seen, _, answer = pipe.read().partition(b"\n")
        _, status = os.waitpid(child, 0)
        shutil.rmtree(copy)
        looked = json.loads(seen) if seen else "the look ended the process"
        if answer:
            outcome, said = Outcome(json.loads(answer)[0]), json.loads(answer)[1]
        else:
            number = os.waitstatus_to_exitcode(status)
            outcome, said = Outcome.DIED, signal.Signals(-number).name if number < 0 else f"exit status {number}"
        if outcome == Outcome.HARMLESS and looked:
            return Outcome.LOOKED, looked
        return outcome, f"{said}; a look finds {looked or 'nothing'}"

    def _examine(self, copy: Path) -> tuple[Outcome, str]:
        """An answer that is not true outweighs all others: whoever asked for nothing else would be told only that.

        HashKV is not asked: that it differs is how members find out.
        """
        try:
            # As at the start of a member (kvstore.storage.datadir).
            check_environment(copy)
            _, opened, leases = _open(copy)
        except CorruptStore as error:
            return Outcome.REFUSED, str(error)
        except Exception as error:
            return Outcome.REFUSED, f"unclear: {type(error).__name__}: {error}"
        stopped = ""
        for number, (ask, answer) in enumerate(zip(self.questions, self._answers, strict=True)):
            try:
                found = ask(opened, leases)
            except CorruptStore as error:
                stopped = stopped or str(error)
            except Exception as error:
                stopped = stopped or f"unclear: {type(error).__name__}: {error}"
            else:
                if found != answer:
                    return Outcome.SERVED, f"question {number}: {len(found)} bytes, not {len(answer)}; {stopped}"
        return (Outcome.STOPPED, stopped) if stopped else (Outcome.HARMLESS, "")


async def _compact(path: Path) -> None:
    backend, _, _ = _open(path)
    await backend.defragment()
    await backend.close()


def _look(path: Path) -> str:
    """What a look at all pages says; nothing if they are as they should be."""
    try:
        place: structure.Place | None = structure.Place()
        while place is not None:
            place = structure.look(path, [META, *_TABLES], place, 1000)
    except (StorageError, lmdb.Error) as error:
        return str(error)
    return ""


def _open(path: Path) -> tuple[Backend, Store, Lessor]:
    backend = open_inline(path, _TABLES, _OPTIONS)
    leases = Lessor(backend)
    return backend, Store(backend, leases), leases


def _questions(names: list[bytes], middle: int, newest: int, chance: Random) -> Iterator[Question]:
    for revision in (0, middle, (middle + newest) // 2):
        yield _ranges(0, revision, keys_only=False)
        yield _ranges(300, revision, keys_only=False)
        yield _ranges(0, revision, keys_only=True)
        yield _range(pb.RangeRequest(key=b"\0", range_end=b"\0", revision=revision, count_only=True))
        yield _range(pb.RangeRequest(key=b"key/4", range_end=b"key/5", revision=revision, limit=10))
    yield _range(pb.RangeRequest(key=b"\0", range_end=b"\0", sort_order=pb.RangeRequest.DESCEND, limit=500))
    yield lambda asked, _: b"".join(row for _, row in asked.history(middle + 1))
    yield lambda _, leases: b" ".join(leases.keys(7))
    for name in names:
        yield _range(pb.RangeRequest(key=name))
    for name in chance.sample(names, len(names) // 4):
        yield _range(pb.RangeRequest(key=name, revision=middle))
        yield _range(pb.RangeRequest(key=name + b"-"))
    for number in range(6):
        yield _range(pb.RangeRequest(key=b"long/" + b"l" * 1000 + b"%d" % number))


def _range(request: pb.RangeRequest) -> Question:
    return lambda asked, _: asked.range(request)


def _ranges(limit: int, revision: int, *, keys_only: bool) -> Question:
    """All keys, so many at a time."""

    def ask(asked: Store, _: Lessor) -> bytes:
        answers = []
        request = pb.RangeRequest(key=b"\0", range_end=b"\0", limit=limit, revision=revision, keys_only=keys_only)
        more = True
        while more:
            answers.append(asked.range(request))
            answer = pb.RangeResponse.FromString(answers[-1])
            more = answer.more
            if more:
                request.key = answer.kvs[-1].key + b"\0"
        return b"".join(answers)

    return ask

"""A member whose files were damaged refuses to start, or says so when it reads.

More flipped bits in the state are looked at in test_state.py: a member's directory holds too little of one to tell
much.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import lmdb
import pytest

from kvstore.storage.errors import SnapshotInvalid
from kvstore.storage.journal import decode_mark, records
from kvstore.storage.meta import JOURNAL_KEY
from kvstore.storage.seal import SEAL_SIZE
from kvstore.storage.snapshot_file import verify
from tests.crash.damage import Damage, Patients, flips, whole_files
from tests.crash.examine import Outcome
from tests.crash.history import Do, History, Put
from tests.crash.victim import Victim
from tests.faultfs import NoCompiler


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Patients]:
    try:
        made = Patients(tmp_path_factory.mktemp("patients"))
    except NoCompiler as reason:
        pytest.skip(str(reason))
    with made:
        yield made


def test_without_damage_everything_is_there(patients: Patients) -> None:
    assert patients.suffer(None) == (Outcome.HARMLESS, "")


def test_a_file_that_is_cut_short_or_gone_or_zeroed_or_another_members_is_refused(patients: Patients) -> None:
    findings = patients.suffer_all(whole_files(patients.root))
    assert not findings.of(Outcome.SERVED, Outcome.DIED, Outcome.STOPPED)
    for damage, outcome, said in findings.all:
        # Locks are made anew, and LMDB leaves free pages at the end of a file unwritten.
        made_anew = damage.path.endswith(("LOCK", "lock.mdb")) or "cut off" in damage.what
        assert outcome == Outcome.REFUSED or made_anew, f"{damage}: {outcome}"
        if outcome == Outcome.REFUSED:
            assert "/member/" in said, f"does not say what is broken: {said}"
            assert "; " in said, f"does not say what to do: {said}"


def test_a_flipped_bit_in_a_record_of_the_journal_or_a_large_entry_is_not_served(patients: Patients) -> None:
    checked = [("member/wal/journal", "block"), ("member/wal/data.mdb", "overflow")]
    damages = [damage for damage in flips(patients.root, 10, seed=1) if (damage.path, damage.where) in checked]
    assert len(damages) == 20
    findings = patients.suffer_all(iter(damages))
    assert not findings.of(Outcome.SERVED)


def test_a_flipped_bit_in_a_page_of_the_log_or_the_state_is_not_served(patients: Patients) -> None:
    pages = [damage for damage in flips(patients.root, 4, seed=2) if damage.path.endswith("data.mdb")]
    assert {damage.path for damage in pages} == {"member/wal/data.mdb", "member/db/data.mdb"}
    findings = patients.suffer_all(iter(pages))
    assert not findings.of(Outcome.SERVED, Outcome.DIED)
    # Harmless in pages that are free, and in bytes that mean nothing; a few are found by the first read.
    ways = [each for each in findings.all if each[0].where.endswith(("header", "table of nodes"))]
    outcomes = {outcome for _, outcome, _ in ways}
    assert Outcome.REFUSED in outcomes
    assert outcomes <= {Outcome.REFUSED, Outcome.HARMLESS, Outcome.STOPPED}, findings.of(Outcome.LOOKED)
    for damage, outcome, said in ways:
        if outcome == Outcome.REFUSED:
            assert "/member/" in said, f"{damage} does not say what is broken: {said}"
            assert "; remove this member" in said, f"{damage} does not say what to do: {said}"


def test_a_flipped_bit_in_the_last_record_of_the_journal_is_refused(patients: Patients) -> None:
    wal = patients.root / "member" / "wal"
    with lmdb.open(str(wal), max_dbs=64, readonly=True, lock=False) as env:
        table = env.open_db(b"meta", create=False)
        with env.begin(db=table) as txn:
            mark = decode_mark((txn.get(JOURNAL_KEY) or b"")[:-SEAL_SIZE], wal)
    marks = [mark, *(record.after for record in records(wal, mark))]
    if len(marks) < 2:
        pytest.skip("everything was moved out of the journal in the moment before the member was killed")
    begins, ends = marks[-2].offset, marks[-1].offset
    chance = Random(1)
    for place in (begins, begins + 5, begins + 511, ends - 1, *(chance.randrange(begins, ends) for _ in range(4))):
        outcome, said = patients.suffer(Damage("member/wal/journal", "flip", "last record", place, chance.randrange(8)))
        assert outcome == Outcome.REFUSED, f"byte {place} of {begins} to {ends}: {said}"
        assert f"record {marks[-2].sequence} of the journal is damaged" in said


@pytest.mark.timeout(300)
def test_flipped_bits_in_a_snapshot_file_are_refused(place: Path) -> None:
    file = place / "snapshot.db"
    history = History.of(iter([Put(((b"key", b"value" * 1000),)), Do("snapshot")]))
    with Victim(place / "member", history) as victim:
        victim.take_all()
        victim.save_snapshot(file)
    whole = file.read_bytes()
    assert verify(file).revision == 2
    chance = Random(1)
    for _ in range(200):
        place_of_bit = chance.randrange(8 * len(whole))
        damaged = bytearray(whole)
        damaged[place_of_bit // 8] ^= 1 << place_of_bit % 8
        file.write_bytes(damaged)
        with pytest.raises(SnapshotInvalid):
            verify(file)
    for size in (0, 1, 4096, len(whole) // 2, len(whole) - 32, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(SnapshotInvalid):
            verify(file)

"""A data directory that is brought to a newer format is the old one or the new one wherever that is interrupted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from kvstore.storage.datadir import DataDirectory
from kvstore.storage.meta import CLUSTER_KEY, FORMAT
from kvstore.storage.seal import SEAL_SIZE
from tests.cluster.harness.binary import kvstored
from tests.crash.power import Cut
from tests.crash.upgrade import APPLIED, ROWS
from tests.faultfs import FaultFs, NoCompiler, trace
from tests.faultfs.disk import Disk, write_tree
from tests.storage.test_datadir import IDENTITY, close, open_stores
from tests.storage.test_formats import format_of, log_and_state

FATES = ("nothing of it", "names without data", "data without names", "all of it", "chance")


def run(how: str, faults: FaultFs) -> None:
    """One of the two things that upgrade.py does, under the layer."""
    subprocess.run(
        [sys.executable, "-m", "tests.crash.upgrade", how, os.fspath(faults.root / "data")],
        env={**os.environ, **kvstored().environment, **faults.environment},
        check=True,
        capture_output=True,
        timeout=100,
    )


def is_sealed(path: Path) -> bool:
    """Whether the rows of an environment are those of the newest format."""
    with lmdb.open(os.fspath(path), max_dbs=64, readonly=True, lock=False) as env:
        table = env.open_db(b"meta", create=False)
        with env.begin(db=table) as txn:
            return len(txn.get(CLUSTER_KEY) or b"") == 8 + SEAL_SIZE


@pytest.mark.timeout(300)
async def test_an_upgrade_that_loses_power_is_done_again_and_loses_nothing(place: Path) -> None:
    try:
        faults = FaultFs(place / "target", place / "faults", trace=True)
    except NoCompiler as reason:
        pytest.skip(str(reason))
    with faults:
        faults.skip_syncs()
        run("old", faults)
        before = faults.operations
        run("new", faults)
        assert faults.trace is not None
        records = list(trace.read(faults.trace))
        disk = Disk(faults.root.stat().st_ino)
    found_old = found_new = 0
    for moment, record in enumerate(records, 1):
        disk.apply(record)
        if record.operation <= before:
            continue
        for cut in (Cut(moment, fate) for fate in FATES):
            left = place / "left"
            write_tree(disk.after_power_cut(cut.decide()), left)
            environments = log_and_state(left / "data")
            if {format_of(path) for path in environments} == {FORMAT}:
                found_new += 1
                assert all(map(is_sealed, environments)), f"it says that the step is done: {cut}"
            else:
                found_old += 1
            directory = DataDirectory.open(left / "data")
            assert directory.identity == IDENTITY
            stores = open_stores(directory)
            assert (stores.wal.last_index(), stores.backend.applied.index) == (10, APPLIED), str(cut)
            assert list(stores.backend.table("current").scan(b"", None)) == ROWS, str(cut)
            await close(stores)
            directory.close()
            assert all(map(is_sealed, environments)), str(cut)
            shutil.rmtree(left)
    assert found_old
    assert found_new

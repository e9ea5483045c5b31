"""A data directory that is restored from a snapshot file appears whole or not at all, and stays once it was told of."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.cluster.harness.binary import kvstored
from tests.crash.history import Grant, History, Put
from tests.crash.observe import observe
from tests.crash.power import Cut
from tests.crash.recovery import Recovered
from tests.crash.victim import Victim
from tests.faultfs import FaultFs, NoCompiler, trace
from tests.faultfs.disk import Disk, write_tree

PEER_URL = "http://127.0.0.1:2380"
FATES = ("nothing of it", "names without data")


def restore(file: Path, data_dir: Path, environment: Mapping[str, str]) -> None:
    """Run the tool; it must say that all went well."""
    command = [sys.executable, "-m", "kvctl", "snapshot", "restore", os.fspath(file), f"--data-dir={data_dir}"]
    cluster = ["--name=m1", f"--initial-cluster=m1={PEER_URL}", f"--initial-advertise-peer-urls={PEER_URL}"]
    subprocess.run(
        [*command, *cluster, "--initial-cluster-token=test"],
        env={**os.environ, **kvstored().environment, **environment},
        check=True,
        capture_output=True,
        timeout=100,
    )


@pytest.mark.timeout(400)
def test_a_restored_directory_appears_whole_or_not_at_all(place: Path) -> None:
    history = History.of(iter([Put(((b"key", b"value" * 5000),)), Grant(7), Put(((b"leased", b"x"),), lease=7)]))
    file = place / "snapshot.db"
    try:
        faults = FaultFs(place / "target", place / "faults", trace=True)
    except NoCompiler as reason:
        pytest.skip(str(reason))
    with faults, Victim(place / "origin", history) as victim:
        victim.take_all()
        victim.save_snapshot(file)
        faults.skip_syncs()
        restore(file, faults.root / "data", faults.environment)
        assert faults.trace is not None
        records = list(trace.read(faults.trace))
        disk = Disk(faults.root.stat().st_ino)
    whole = 0
    for moment, record in enumerate(records, 1):
        disk.apply(record)
        for cut in [*(Cut(moment, fate) for fate in FATES), Cut(moment, "chance")]:
            left = disk.after_power_cut(cut.decide())
            if "data/member" not in left:
                assert moment < len(records), f"gone after all was done: {cut}"
                continue
            write_tree(left, place / "left")
            with Recovered(place / "left" / "data", "m1", PEER_URL) as member:
                observe(member, history.contents[-1], None)
            (place / "left").rename(place / f"checked-{whole}")
            whole += 1
    assert whole >= len(FATES)

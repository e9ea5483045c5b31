"""A short run of everything with real processes, and that nothing of it is left however it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.clients import WorkerFailed, WorkerProcess
from tests.chaos.judge import judge
from tests.chaos.nemesis import Nemesis
from tests.chaos.report import summary
from tests.chaos.schedule import Strike
from tests.chaos.verdict import Verdict
from tests.chaos.worker import Orders
from tests.cluster.harness import from_environment, wait_until
from tests.cluster.harness.binary import REPOSITORY
from tests.cluster.harness.leftovers import alive, give_up, of_directory
from tests.history.model import Outcome

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

STRIKES = (("kill-leader",), ("bridge", "lossy"), ("replace", "compact"), ("pause-leader",))
SEED = 20
SERVED_WITHIN = 15.0
"""Seconds; generous, for machines that do much else. How fast it really is the scenarios measure."""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_cluster_that_is_mistreated_under_load_keeps_every_promise(tmp_path: Path) -> None:
    verdict = Verdict()
    lines: list[str] = []
    with Nemesis(from_environment(), tmp_path, 3, SEED, 400.0, lines.append) as nemesis:
        for number, faults in enumerate(STRIKES):
            seeds = tuple(range(number, number + len(faults)))
            damage = nemesis.strike(Strike(faults, seeds, stagger=0.2, hold=2.0, calm=0.5))
            assert damage.silent < SERVED_WITHIN
        assert max(damage.silent for damage in nemesis.damages) > 0.5
        nemesis.finish(verdict)
        pids = [member.process.pid for member in nemesis.cluster.members if member.process]
    judge(nemesis.history, verdict, tmp_path, lines.append)
    assert verdict.ok, "\n".join([*lines, summary(nemesis, verdict, 0, 0)])
    assert sum(call.outcome is Outcome.ANSWERED for call in nemesis.history.calls) > 1_000
    assert len({type(call.op) for call in nemesis.history.calls}) >= 8
    assert "the leader" in nemesis.damages[0].told
    assert not any(map(alive, pids))


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_an_interrupted_run_leaves_no_process(tmp_path: Path) -> None:
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "cmd"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "tests.chaos", "--seconds", "60", "--faults", "pause", f"--out={tmp_path / 'out'}"]
    run = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)},
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    try:
        wait_until(lambda: len(of_directory(tmp_path)) > 3, "members run", 100)
        begun = of_directory(tmp_path)
        run.send_signal(signal.SIGINT)
        assert run.wait(100) == 130
        assert not any(map(alive, begun))
    finally:
        give_up(run)
        assert run.stdout is not None
        run.stdout.close()


def test_a_worker_that_ends_by_itself_is_noticed(tmp_path: Path) -> None:
    orders = Orders("w", ("127.0.0.1:1",), 1, str(tmp_path / "history"), rate=10.0, lanes=1)
    with WorkerProcess(orders, tmp_path / "log") as worker:
        worker.require_running()
        worker._process.kill()
        worker._process.wait()
        with pytest.raises(WorkerFailed):
            worker.require_running()


def test_a_worker_ends_when_nobody_is_left_to_ask_it(tmp_path: Path) -> None:
    orders = Orders("w", ("127.0.0.1:1",), 1, str(tmp_path / "history"), rate=10.0, lanes=1)
    with WorkerProcess(orders, tmp_path / "log") as worker:
        assert worker._process.stdin is not None
        worker._process.stdin.close()
        assert worker._process.wait(30) == 0

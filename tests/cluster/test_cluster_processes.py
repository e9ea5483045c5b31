"""The hands that these tests have on processes: what a member has started goes with it, wherever that has got to."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.harness import ClusterFactory
from tests.cluster.harness.process import ManagedProcess
from tests.cluster.harness.waiting import ConditionNotMet, wait_until

CHILD_OF_ITS_OWN_SESSION = """
import signal, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
signal.pause()
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found in /proc")


@pytest.fixture
def process(tmp_path: Path) -> Iterator[ManagedProcess]:
    started = ManagedProcess([sys.executable, "-c", CHILD_OF_ITS_OWN_SESSION], {}, tmp_path / "log", tmp_path)
    yield started
    started.kill_group()


def child_of(process: ManagedProcess) -> int:
    [pid] = wait_until(process.started, "it has started a process")
    return pid


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_a_group_is_killed_with_what_has_a_session_of_its_own(process: ManagedProcess) -> None:
    child = child_of(process)
    assert os.getsid(child) != os.getsid(process.pid)
    process.kill_group()
    assert not process.running
    assert process.started() == []


def test_a_group_is_stopped_and_goes_on_with_what_has_a_session_of_its_own(process: ManagedProcess) -> None:
    child = child_of(process)
    process.send_group(signal.SIGSTOP)
    wait_until(lambda: stopped(process.pid) and stopped(child), "both have stopped")
    process.send_group(signal.SIGCONT)
    wait_until(lambda: not stopped(process.pid) and not stopped(child), "both go on")


def test_what_a_killed_process_had_started_is_waited_for(process: ManagedProcess) -> None:
    child = child_of(process)
    process.send(signal.SIGKILL)
    process.wait(10)
    with pytest.raises(ConditionNotMet):
        process.wait_alone(0.1)
    os.kill(child, signal.SIGKILL)
    process.wait_alone()
    assert process.started() == []


def test_a_killed_member_leaves_no_writer_and_a_wiped_one_no_file(make_cluster: ClusterFactory) -> None:
    (member,) = make_cluster(1).members
    assert member.process is not None
    assert member.process.started(), "a member has processes that write for it"
    member.client.put(b"key", b"value")
    member.kill_group()
    assert member.process.started() == []
    member.start()
    member.wait_ready()
    # Alone: its writers notice it, and end by themselves.
    member.kill()
    member.wipe()
    assert member.process.started() == []
    assert not member.data.exists()
    member.start()
    member.wait_ready()
    assert member.client.get(b"key") is None

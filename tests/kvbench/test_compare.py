"""Comparing: the plan, the arithmetic of its table, and a tiny comparison of two real servers."""

import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from kvbench.compare import CompareFailed, Plan, Results, Row, compare
from kvbench.main import program
from kvbench.servers import Program
from kvbench.workloads import Sample, table

REPOSITORY = Path(__file__).resolve().parents[2]


def plan(*only: str) -> Plan:
    return Plan.make(smoke=True, only=only, members=(1,), rounds=3, duration=5.0, processes=1)


def names(*only: str) -> list[str]:
    return [workload.name for workload in plan(*only).workloads]


def test_a_pattern_picks_workloads() -> None:
    assert names("put 1*") == ["put 1x1", "put 10x10", "put 100x1"]
    assert names("count only") == ["range count only"]
    assert names("count only", "put 1*") == ["put 1x1", "put 10x10", "put 100x1", "range count only"]
    assert len(names("")) == len(names()) == len(table())
    assert names("nothing of the kind") == []


def test_workloads_have_names_of_their_own() -> None:
    assert len({workload.name for workload in table()}) == len(table())


def test_the_ratio_is_that_of_the_medians() -> None:
    workload = next(iter(table()))
    row = Row(workload, 1, {"etcd": [Sample(1), Sample(2), Sample(9)], "kvstored": [Sample(3), Sample(5), Sample(4)]})
    assert row.ratio == 2.0
    assert math.isnan(Row(workload, 1, {"etcd": [Sample(0)], "kvstored": [Sample(1)]}).ratio)


def test_without_etcd_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = CliRunner().invoke(program, ["compare", "--smoke"])
    assert done.exit_code == 1
    assert "apt-get install etcd-server" in done.output


def test_no_such_workload_lists_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    etcd = tmp_path / "etcd"
    etcd.write_text("#!/bin/sh\necho etcd Version: 0.0.0\n")
    etcd.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(CompareFailed, match="put 20x50"):
        compare(plan("nothing of the kind"), tmp_path, tmp_path / "out.json")


def start(*arguments: str) -> subprocess.Popen[str]:
    """kvbench compare as a process."""
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "cmd"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "kvbench", "compare", "--smoke", "--members", "1", *arguments],
        env={**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def servers_in(directory: Path) -> list[int]:
    """Processes whose command line names the directory as that of their data."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if f"--data-dir={directory}".encode() in command.read_bytes():
                found.append(int(command.parent.name))
    return found


@pytest.mark.skipif(shutil.which("etcd") is None, reason="there is no etcd on the PATH to compare with")
class TestRealServers:
    def test_a_tiny_comparison_leaves_nothing_behind(self, tmp_path: Path) -> None:
        data, out = tmp_path / "data", tmp_path / "out.json"
        process = start("--only", "m*", "--dir", str(data), "--json", str(out))
        said, _ = process.communicate(timeout=100)
        assert process.returncode == 0, said
        results = json.loads(out.read_text())
        assert results["programs"].keys() == {"etcd", "kvstored"}
        assert [result["workload"] for result in results["results"]] == ["mixed 80/20 20x50", "memory"]
        for result in results["results"]:
            assert result["workload"] in said
            assert result["ratio_of_medians"] > 0
        own = results["programs"]["kvstored"]
        assert own in said
        assert f"Python Version: {platform.python_version()}" in own
        assert "Modules: " in own
        assert results["machine"]["interpreter"] == sys.executable
        assert list(data.iterdir()) == []
        assert servers_in(data) == []

    @pytest.mark.skipif(not Path("/proc").exists(), reason="processes are looked for in /proc")
    @pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
    def test_when_it_is_told_to_stop_it_ends_its_servers(self, tmp_path: Path, how: signal.Signals) -> None:
        process = start("--only", "put*", "--dir", str(tmp_path), "--json", str(tmp_path / "out.json"))
        deadline = time.monotonic() + 60
        while len(servers_in(tmp_path)) < 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(servers_in(tmp_path)) >= 2
        process.send_signal(how)
        said, _ = process.communicate(timeout=60)
        assert process.returncode != 0, said
        assert servers_in(tmp_path) == []
        assert list(tmp_path.iterdir()) == []


def test_results_that_are_there_are_not_measured_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    etcd = tmp_path / "etcd"
    etcd.write_text("#!/bin/sh\necho etcd Version: 0.0.0\n")
    etcd.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    samples = {"etcd": [{"value": 2.0, "p50": 1.0}], "kvstored": [{"value": 5.0, "generator": 0.25}]}
    out = tmp_path / "out.json"
    out.write_text(json.dumps({"results": [{"workload": "put 1x1", "members": 1, "samples": samples}]}))
    arguments = ["compare", "--resume", "--only", "put 1x1", "--members", "1", "--json", str(out)]
    done = CliRunner().invoke(program, arguments)
    assert done.exit_code == 0, done.output
    row = next(line for line in done.output.splitlines() if line.startswith("put 1x1"))
    assert row.split()[-1] == "2.50"
    assert "25%" in row


def test_a_file_that_holds_no_results_is_not_gone_on_from(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    out.write_text("{}")
    with pytest.raises(CompareFailed, match="no results"):
        Results(plan("put 1x1"), (Program("etcd", (), ""), Program("kvstored", (), "")), out).read()

"""Which program the tests of a cluster start."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.cluster.harness import ClusterFactory, from_environment

INSTALLED = Path(sys.executable).with_name("kvstored")


def test_an_installed_kvstored_is_started_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "kvstored"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KVSTORE_TEST_BINARY", "./kvstored")
    binary = from_environment()
    assert (binary.command, binary.is_reference) == ((str(program),), False)
    # What is installed runs, not the sources that the tests themselves are run from.
    assert binary.environment == {"PYTHONPATH": ""}


@pytest.mark.skipif(shutil.which(INSTALLED) is None, reason=f"there is no {INSTALLED}")
def test_it_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KVSTORE_TEST_BINARY", str(INSTALLED))
    factory = ClusterFactory(from_environment(), tmp_path)
    try:
        client = factory(1).leader().client
        assert client.put(b"k", b"v").header.revision == 2
    finally:
        factory.close()


def test_one_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KVSTORE_TEST_BINARY", str(tmp_path / "kvstored"))
    with pytest.raises(FileNotFoundError, match="kvstored is not a program"):
        from_environment()

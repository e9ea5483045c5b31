"""Runs tests on the compiled modules: `python deploy/compiled/check.py tests/raft -n auto`, with arguments for pytest.

The compiled build is laid over a copy of the tree, so that everything there finds it where the sources are: the tests,
and the members that they start. In the tree itself libraries would go on hiding sources that have changed since.
KVSTORE_COMPILE_OPT is as in setup.py.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What building and the tools of a working tree leave behind.
NOT_COPIED = (".*", "__pycache__", "build", "dist", "bench-results", "local-cluster", "*.egg-info", "*.etcd", "*.so")
PROOF = "raft.raft", "kvstore.mvcc.store", "kvstore.storage.wal", "kvstore.server.ready_loop", "kvstore.rpc.call"


def main(arguments: list[str]) -> int:
    """Build, and run pytest. The exit code is pytest's."""
    with tempfile.TemporaryDirectory(prefix="kvstore-compiled-") as made:
        tree = Path(made) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*NOT_COPIED))
        wheel = build(tree, Path(made))
        with zipfile.ZipFile(wheel) as file:
            file.extractall(tree, [name for name in file.namelist() if name.endswith(EXTENSION_SUFFIXES[0])])
        for module in PROOF:
            show = f"import {module} as module; print(module.__file__)"
            found = subprocess.run([sys.executable, "-c", show], cwd=tree, check=True, capture_output=True, text=True)
            assert found.stdout.strip().endswith(EXTENSION_SUFFIXES[0]), f"{module} is {found.stdout.strip()}"
        # An editable install of the tree itself is in the path as well, and would lend its commands.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tree), str(tree / "cmd")))}
        return subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=tree, env=environment).returncode


def build(tree: Path, to: Path) -> Path:
    """Build the compiled wheel of a tree with this interpreter."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    environment = {**os.environ, "KVSTORE_COMPILE": "1"}
    subprocess.run([*command, "--wheel-dir", to, tree], env=environment, check=True)
    (wheel,) = to.glob("*.whl")
    return wheel


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

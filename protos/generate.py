"""Writes kvstore/pb from the .proto files beside it; with --check, says whether kvstore/pb is what they give."""

import argparse
import filecmp
import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

HERE = Path(__file__).resolve().parent
TARGET = HERE.parent / "kvstore" / "pb"


def generate(out: Path) -> None:
    """Compile every .proto into modules and stubs under `out`/kvstore/pb."""
    sources = sorted(str(path) for path in HERE.glob("kvstore/pb/*.proto"))
    well_known = str(files("grpc_tools") / "_proto")
    plugin = shutil.which("protoc-gen-mypy", path=str(Path(sys.executable).parent))
    if plugin is None:
        raise SystemExit("protoc-gen-mypy is not installed beside this Python: pip install mypy-protobuf")
    status = protoc.main(
        [
            "protoc",
            f"-I{HERE}",
            f"-I{well_known}",
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            f"--plugin=protoc-gen-mypy={plugin}",
            f"--mypy_out=quiet:{out}",
            *sources,
        ]
    )
    if status != 0:
        raise SystemExit(f"protoc failed with status {status}")


def stale_files(fresh: Path) -> list[str]:
    """Names of generated files that differ from, or are missing in, the checked-in package."""
    names = {path.name for path in fresh.iterdir()} | {path.name for path in TARGET.glob("*_pb2*")}
    return sorted(
        name
        for name in names
        if not (TARGET / name).exists()
        or not (fresh / name).exists()
        or not filecmp.cmp(TARGET / name, fresh / name, shallow=False)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if kvstore/pb is not fresh")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = Path(scratch) / "kvstore" / "pb"
        stale = stale_files(fresh)
        if arguments.check:
            if stale:
                raise SystemExit(f"not what protos/ gives (run `make generate`): {', '.join(stale)}")
            return
        for name in stale:
            if (fresh / name).exists():
                shutil.copyfile(fresh / name, TARGET / name)
            else:
                (TARGET / name).unlink()


if __name__ == "__main__":
    main()

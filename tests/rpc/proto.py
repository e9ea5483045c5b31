"""A small service of all four kinds, compiled when the tests need it."""

import importlib
import sys
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from types import ModuleType

from grpc_tools import protoc

_SOURCE = """
syntax = "proto3";
package rpctest;

message Text {
  string text = 1;
  int32 number = 2;
  bytes data = 3;
}

service Echo {
  rpc Unary(Text) returns (Text);
  rpc Collect(stream Text) returns (Text);
  rpc Expand(Text) returns (stream Text);
  rpc Chat(stream Text) returns (stream Text);
}
"""


@cache
def modules() -> tuple[ModuleType, ModuleType]:
    """The generated modules: messages, and registration code and stubs."""
    folder = Path(mkdtemp(prefix="rpctest"))
    (folder / "rpctest_echo.proto").write_text(_SOURCE)
    arguments = ["protoc", f"-I{folder}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
    assert protoc.main([*arguments, "rpctest_echo.proto"]) == 0
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("rpctest_echo_pb2"), importlib.import_module("rpctest_echo_pb2_grpc")
    finally:
        sys.path.remove(str(folder))

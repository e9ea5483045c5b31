"""A file layer that tests can make fail: FaultFs steers it, the trace tells what it saw."""

from tests.faultfs.control import FaultFs, NoCompiler

__all__ = ["FaultFs", "NoCompiler"]

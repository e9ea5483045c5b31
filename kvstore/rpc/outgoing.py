"""What writing a message to a stream returns: whether to go on writing.

The same on a server and on a client.
"""

from collections.abc import Callable, Generator
from typing import Final

from kvstore.rpc.promise import Promise


class Written:
    """More may be written: true, and awaiting it does not wait."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return True

    def __await__(self) -> Generator[object, None, None]:
        return
        yield


class Buffered:
    """The buffer is full: false, and awaiting it waits until more may be written."""

    __slots__ = ("_drain",)

    def __init__(self, drain: Callable[[], Promise[None]]) -> None:
        self._drain = drain

    def __bool__(self) -> bool:
        return False

    def __await__(self) -> Generator[object, None, None]:
        yield from self._drain().__await__()


WRITTEN: Final = Written()

"""Messages of one direction of a stream, received and not yet read.

The same on a server (requests) and on a client (responses). Flow control credit follows reading: who does not read
stops the peer. Knows nothing of connections but the function that gives credit back.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from kvstore.rpc.promise import Promise
from kvstore.rpc.status import RpcError, StatusCode


class EndOfStream:
    """What read() gives when the peer has said that it sends no more; false."""

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "EOF"


EOF: Final = EndOfStream()


class Read(Promise[Any]):
    """A message being read. One that arrives when nobody waits any more is kept for the next read."""

    __slots__ = ("claimed",)

    def __init__(self) -> None:
        super().__init__()
        self.claimed = False

    def result(self) -> Any:
        self.claimed = True
        return super().result()


def _decode_nothing(_: bytes) -> Any:
    raise call_ended()


def _credit_nobody(_: int) -> None:
    pass


class Incoming:
    """A queue of messages with one reader.

    decode: makes a message of its bytes; may raise RpcError. credit: gives the peer back so many bytes.
    """

    __slots__ = ("_credit", "_decode", "_end", "_messages", "_read", "_uncredited")

    def __init__(self, decode: Callable[[bytes], Any], credit: Callable[[int], None]) -> None:
        self._decode = decode
        self._credit = credit
        self._messages: deque[bytes] = deque()
        self._read: Read | None = None
        # Received bytes for which the peer gets no new credit until the queue is empty.
        self._uncredited = 0
        # What a read finds after the last message.
        self._end: EndOfStream | RpcError | None = None

    def count(self, size: int) -> None:
        """So many bytes have arrived: credit them now if all before them has been read, else later."""
        if self._messages:
            self._uncredited += size
        elif size:
            self._credit(size)

    def put(self, messages: Iterable[bytes]) -> None:
        """Add complete messages; a read that waits gets the first before this returns."""
        self._messages.extend(messages)
        if self._messages:
            self._deliver()

    def close(self, end: EndOfStream | RpcError) -> None:
        """No more come: after the last message a read gives EOF, or raises."""
        if self._end is None:
            self._end = end
        if not self._messages:
            self._deliver()

    def abandon(self, error: RpcError) -> None:
        """Drop everything: a read that waits, and every later one, raises."""
        self._messages.clear()
        self._end = error
        if self._uncredited:
            size, self._uncredited = self._uncredited, 0
            self._credit(size)
        # They are methods of whoever holds this: without them its memory is free at once, and need not wait for the
        # collector. With an error at the end neither is needed any more.
        self._decode, self._credit = _decode_nothing, _credit_nobody
        self._deliver()

    def read(self) -> Promise[Any]:
        """The next message, or the end. One read at a time: a second one joins the first."""
        read = self._read
        if read is not None and not read.claimed:
            return read
        self._read = read = Read()
        if self._messages or self._end is not None:
            self._deliver()
        return read

    def _deliver(self) -> None:
        read = self._read
        if read is None or read.done():
            return
        try:
            message = self._take()
        except RpcError as error:
            # Its traceback holds the frames of this call, and they hold the connection that may be about to go.
            read.set_exception(error.with_traceback(None))
        else:
            read.set_result(message)

    def _take(self) -> Any:
        if not self._messages:
            if isinstance(self._end, RpcError):
                raise RpcError(self._end.code, self._end.message, self._end.metadata)
            return EOF
        payload = self._messages.popleft()
        if self._uncredited and not self._messages:
            size, self._uncredited = self._uncredited, 0
            self._credit(size)
        return self._decode(payload)


CALL_ENDED: Final = "the call has ended"


def call_ended() -> RpcError:
    """What reads and writes on a call that is over fail with."""
    return RpcError(StatusCode.CANCELLED, CALL_ENDED)

"""A future that is resolved synchronously, in the turn of whoever resolves it.

An asyncio.Future calls back through the loop, a task steps through it: two rounds of scheduling a call. A Promise calls
its one callback inside set_result, so that a thousand callers of one batch are answered in one go. Knows nothing of
gRPC.
"""

import asyncio
import logging
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Promise(Generic[T]):
    """A result that will be there later; resolved once, observed once.

    Either one callback (`then`) or one awaiting task observes it. Whoever waits may give up: resolving it
    afterwards is still right and reaches nobody.
    """

    __slots__ = ("_callback", "_done", "_exception", "_result")

    _result: T

    def __init__(self) -> None:
        self._done = False
        self._exception: BaseException | None = None
        self._callback: Callable[[Promise[T]], None] | None = None

    @classmethod
    def resolved(cls, result: T) -> "Promise[T]":
        """A promise that already has its result."""
        promise = cls()
        promise._done = True
        promise._result = result
        return promise

    @classmethod
    def failed(cls, exception: BaseException) -> "Promise[T]":
        """A promise that already has its exception."""
        promise = cls()
        promise._done = True
        promise._exception = exception
        return promise

    def done(self) -> bool:
        return self._done

    def set_result(self, result: T) -> None:
        """Resolve it; the callback runs before this returns. Raises asyncio.InvalidStateError if resolved before."""
        if self._done:
            raise asyncio.InvalidStateError("the promise is already resolved")
        self._done = True
        self._result = result
        callback = self._callback
        if callback is not None:
            self._callback = None
            try:
                callback(self)
            except Exception:
                # Its resolver, and whatever else that resolves, must not suffer for one observer.
                logger.exception("the callback of a promise failed")

    def set_exception(self, exception: BaseException) -> None:
        """Fail it; the callback runs before this returns. Raises asyncio.InvalidStateError if resolved before."""
        if self._done:
            raise asyncio.InvalidStateError("the promise is already resolved")
        self._done = True
        self._exception = exception
        callback = self._callback
        if callback is not None:
            self._callback = None
            try:
                callback(self)
            except Exception:
                logger.exception("the callback of a promise failed")

    def result(self) -> T:
        """The result, or raise the exception. Raises asyncio.InvalidStateError before it is resolved."""
        if not self._done:
            raise asyncio.InvalidStateError("the promise is not resolved")
        if self._exception is not None:
            raise self._exception
        return self._result

    def exception(self) -> BaseException | None:
        """The exception, or None if it has a result. Raises asyncio.InvalidStateError before it is resolved."""
        if not self._done:
            raise asyncio.InvalidStateError("the promise is not resolved")
        return self._exception

    def then(self, callback: "Callable[[Promise[T]], None]") -> None:
        """Call callback(self) when resolved: now if it is already, else inside set_result or set_exception.

        What the callback raises inside set_result is logged; whoever resolves is spared.
        Raises RuntimeError if somebody else observes it.
        """
        if self._done:
            callback(self)
            return
        if self._callback is not None:
            raise RuntimeError("the promise already has an observer")
        self._callback = callback

    @property
    def observed(self) -> bool:
        """Whether somebody waits for it."""
        return self._callback is not None

    def ignore(self) -> None:
        """Withdraw the callback: nobody waits any more. Resolving it later is still right."""
        self._callback = None

    def __await__(self) -> Generator[object, None, T]:
        if not self._done:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def wake(_: "Promise[T]") -> None:
                if not future.done():
                    future.set_result(None)

            self.then(wake)
            try:
                yield from future
            except asyncio.CancelledError:
                self._callback = None
                raise
        return self.result()

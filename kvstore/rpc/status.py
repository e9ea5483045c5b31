"""gRPC status codes and the error that carries one.

Knows nothing of HTTP/2 or of any service.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import TypeAlias

# Keys are lower case; a key that ends in "-bin" has a bytes value, every other a str of printable ASCII.
Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]


class StatusCode(IntEnum):
    """The seventeen codes a call ends with; the numbers are those on the wire (grpc-status)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16

    @classmethod
    def of(cls, code: object) -> "StatusCode":
        """Take a code in any form servicers use: ours, an int, or a member of grpcio's enum (value (number, text)).

        Raises ValueError if it is none of the seventeen.
        """
        if isinstance(code, cls):
            return code
        value = getattr(code, "value", code)
        number = value[0] if isinstance(value, tuple) else value
        if not isinstance(number, int):
            raise ValueError(f"not a gRPC status code: {code!r}")
        return cls(number)


class RpcError(Exception):
    """A call that ended with a status other than OK.

    A handler raises it to end its call; a client's call raises it.

    code: the status.
    message: text for the other side, any Unicode.
    metadata: trailing metadata.
    """

    def __init__(self, code: StatusCode, message: str = "", metadata: Metadata = ()) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.metadata = metadata

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"

"""How much a client may do that costs the server and carries nothing.

Counts and compares; what follows from a no is the connection's business. Reads no clock.
"""

# grpc-go's policy: a third ping that comes too early ends the connection.
_MAX_STRIKES = 2
# Without calls and without permission a client may ping once in two hours.
_IDLE_INTERVAL = 7200.0


class TokenBucket:
    """Lets a burst of events pass, and in the long run so many a second."""

    __slots__ = ("_burst", "_last", "_rate", "_tokens")

    def __init__(self, burst: int, rate: int) -> None:
        self._burst = burst
        self._rate = rate
        self._tokens = float(burst)
        self._last = 0.0

    def take(self, now: float) -> bool:
        """Take one token at this time; false if there is none."""
        self._tokens = min(self._burst, self._tokens + (now - self._last) * self._rate)
        self._last = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class PingPolice:
    """Tells pings that look after a connection from pings that burden it, as grpc-go does.

    min_time: seconds that must lie between pings. permit_without_stream: whether that holds without calls too.
    """

    __slots__ = ("_forgiven", "_last", "_min_time", "_permit_without_stream", "_strikes")

    def __init__(self, min_time: float, *, permit_without_stream: bool) -> None:
        self._min_time = min_time
        self._permit_without_stream = permit_without_stream
        self._last = float("-inf")
        self._strikes = 0
        self._forgiven = False

    def forgive(self) -> None:
        """Something of a call is sent: the client has reason to look after the connection, and starts over."""
        self._forgiven = True

    def tolerates(self, now: float, *, has_calls: bool) -> bool:
        """Whether a ping at this time is one the client may still send."""
        since, self._last = now - self._last, now
        if self._forgiven:
            self._forgiven = False
            self._strikes = 0
            return True
        if since < (self._min_time if has_calls or self._permit_without_stream else _IDLE_INTERVAL):
            self._strikes += 1
        return self._strikes <= _MAX_STRIKES

"""How servers and channels may be tuned: frozen, validated where they are made."""

from dataclasses import dataclass, field

from kvstore.rpc.h2 import H2Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Limits and times of a server. Times are seconds, sizes bytes.

    max_receive_bytes: largest request message, also after decompression.
    max_concurrent_streams: calls that one connection may have open.
    stream_window, connection_window: flow control credit of a client before its messages are read.
    max_header_bytes: largest list of request headers.
    max_partial_bytes: incomplete request messages that one connection may make us hold together.
    unfinished_bytes: the same of all connections; beyond it those that began longest ago are refused.
    stream_buffer_bytes, connection_buffer_bytes: responses waiting to be written above which a stream is not writable.
        The second bounds the sum over a connection, save that a stream with nothing waiting may always write once.
    unread_bytes: answers that may wait on all connections together; then long ones are not made before there is room,
        and connections whose clients have read nothing for a second are closed.
    unread_most_bytes: answers on all connections together beyond which those that read nothing for longest are closed
        at once.
    unread_connection_bytes: answers that may wait on one connection when another one is ready; then it is closed.
    unread_calls: calls that a connection may have open or unread while its answers wait; more are refused.
    light_calls: calls that a connection may have open or unread while the server is crowded, or, if its own answers
        wait, while too many do on all connections together; more are refused.
    refusal: what is said to those that are refused, with RESOURCE_EXHAUSTED.
    highest_descriptor: connections whose file descriptor is higher are closed at once, so that the process keeps some
        for what else it has to open; 0: no limit.
    socket_buffer_bytes: bytes handed to the transport before it asks us to pause.
    keepalive_min_time: a client that pings more often gets GOAWAY ENHANCE_YOUR_CALM after two warnings that it cannot
        see.
    keepalive_permit_without_stream: whether a client may keep up an idle connection by pings at that rate.
    keepalive_interval: after that long without a byte from the client it is pinged.
    keepalive_timeout: the connection ends when a ping is not answered for that long.
    preface_timeout: a connection that has not said what it speaks by then is closed.
    control_burst, control_rate: frames that carry nothing (SETTINGS, empty DATA, empty trailers) taken at once, and per
        second in the long run.
    reset_burst, reset_rate: the same for RST_STREAM.
    """

    max_receive_bytes: int = 4 << 20
    max_concurrent_streams: int = 1_000
    stream_window: int = 1 << 20
    connection_window: int = 16 << 20
    max_header_bytes: int = 16 << 10
    max_partial_bytes: int = 64 << 20
    unfinished_bytes: int = 128 << 20
    stream_buffer_bytes: int = 256 << 10
    connection_buffer_bytes: int = 4 << 20
    unread_bytes: int = 96 << 20
    unread_most_bytes: int = 512 << 20
    unread_connection_bytes: int = 256 << 20
    unread_calls: int = 1_000
    light_calls: int = 64
    refusal: str = "too many requests"
    highest_descriptor: int = 0
    socket_buffer_bytes: int = 256 << 10
    keepalive_min_time: float = 5.0
    keepalive_permit_without_stream: bool = False
    keepalive_interval: float = 7200.0
    keepalive_timeout: float = 20.0
    preface_timeout: float = 20.0
    control_burst: int = 1_000
    control_rate: int = 100
    reset_burst: int = 2_000
    reset_rate: int = 500

    def __post_init__(self) -> None:
        _require_positive(self)
        _require_window(self.stream_window, "stream_window")
        _require_window(self.connection_window, "connection_window")

    def h2_limits(self) -> H2Limits:
        return H2Limits(
            max_concurrent_streams=self.max_concurrent_streams,
            stream_window=self.stream_window,
            connection_window=self.connection_window,
            max_header_bytes=self.max_header_bytes,
            reset_burst=self.reset_burst,
            reset_rate=self.reset_rate,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelOptions:
    """Limits and times of a client's channel. Times are seconds, sizes bytes.

    max_receive_bytes: largest response message.
    stream_window, connection_window: flow control credit of the server before its messages are read.
    stream_buffer_bytes: bytes a stream may have waiting to be written and still be writable.
    socket_buffer_bytes: bytes handed to the transport before it asks us to pause.
    connect_timeout: for TCP, TLS and the server's first frame together.
    backoff_initial, backoff_max, backoff_multiplier, backoff_jitter: waits between attempts to connect; each wait is
        multiplied until backoff_max and spread by plus or minus backoff_jitter (a fraction).
    keepalive_interval: after that long without a byte from the server it is pinged; None: never.
    keepalive_timeout: the connection ends when a ping is not answered for that long.
    max_pending_calls: calls that may wait for a connection; more fail with UNAVAILABLE at once.
    authority: the :authority of requests; by default the target.
    user_agent: the user-agent of requests.
    """

    max_receive_bytes: int = 1 << 31
    stream_window: int = 1 << 20
    connection_window: int = 16 << 20
    stream_buffer_bytes: int = 256 << 10
    socket_buffer_bytes: int = 256 << 10
    connect_timeout: float = 20.0
    backoff_initial: float = 1.0
    backoff_max: float = 120.0
    backoff_multiplier: float = 1.6
    backoff_jitter: float = 0.2
    keepalive_interval: float | None = None
    keepalive_timeout: float = 20.0
    max_pending_calls: int = 10_000
    authority: str | None = None
    user_agent: str = "grpc-python-kvstore/0.1"
    limits: H2Limits = field(init=False)

    def __post_init__(self) -> None:
        _require_positive(self)
        _require_window(self.stream_window, "stream_window")
        _require_window(self.connection_window, "connection_window")
        limits = H2Limits(stream_window=self.stream_window, connection_window=self.connection_window)
        object.__setattr__(self, "limits", limits)


def _require_positive(options: ServerOptions | ChannelOptions) -> None:
    for name in options.__slots__:
        value = getattr(options, name, None)
        if isinstance(value, int | float) and not isinstance(value, bool) and value < 0:
            raise ValueError(f"{name} must not be negative: {value}")


def _require_window(size: int, name: str) -> None:
    # RFC 9113 §6.9.1: a window never exceeds 2^31-1; below the default of 65,535 large frames would stall.
    if not 65_535 <= size < 1 << 31:
        raise ValueError(f"{name} must be between 65,535 and 2,147,483,647 bytes: {size}")

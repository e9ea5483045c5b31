"""The HTTP/2 engine: libnghttp2 through ngh2. The only module that knows ngh2.

Bytes in, events out, bytes out; frames, HPACK, flow control and stream states are the engine's. What ngh2 may change
in a later release (names, exceptions, configuration) is to be met here. Knows nothing of gRPC and does no I/O.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import ngh2
from ngh2 import (
    ConnectionClosed,
    DataReceived,
    Event,
    GoAwayReceived,
    PingAcknowledged,
    PingReceived,
    RequestReceived,
    ResponseReceived,
    Setting,
    SettingsReceived,
    StreamClosed,
    TrailersReceived,
)

__all__ = [
    "PREFACE",
    "ConnectionClosed",
    "ConnectionFailed",
    "DataReceived",
    "Engine",
    "EngineError",
    "ErrorCode",
    "Event",
    "Flooded",
    "GoAwayReceived",
    "H2Limits",
    "PingAcknowledged",
    "PingReceived",
    "RequestReceived",
    "ResponseReceived",
    "Setting",
    "SettingsReceived",
    "StreamClosed",
    "TrailersReceived",
    "goaway_frame",
]

# What a client sends first (RFC 9113 §3.4).
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Raised by the engine's sending methods when the stream or the connection is gone.
EngineError = ngh2.NGH2Error


class ErrorCode(IntEnum):
    """Reasons in RST_STREAM and GOAWAY (RFC 9113 §7), as far as gRPC uses them."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC


class ConnectionFailed(Exception):
    """The peer broke the protocol: nothing more can be read or written; close the transport.

    code: what a last GOAWAY should say.
    """

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Flooded(ConnectionFailed):
    """The peer sends more of what costs us more than it does than any honest peer would."""

    def __init__(self, reason: str) -> None:
        super().__init__(ErrorCode.ENHANCE_YOUR_CALM, reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class H2Limits:
    """What one connection may make us hold or do.

    max_concurrent_streams: open streams that the peer may have; more are refused (REFUSED_STREAM).
    stream_window, connection_window: bytes of DATA the peer may send before they are consumed.
    max_frame_bytes: largest frame payload taken, 16 KiB to 16 MiB.
    max_header_bytes: largest header list, each field counted with 32 bytes of overhead (RFC 9113 §6.5.2).
    reset_burst, reset_rate: RST_STREAM frames taken at once, and per second in the long run ("rapid reset",
        CVE-2023-44487).
    max_pending_acks: SETTINGS and PING acknowledgements that wait to be written.
    max_continuations: CONTINUATION frames of one header block (CVE-2024-28182).
    """

    max_concurrent_streams: int = 1_000
    stream_window: int = 1 << 20
    connection_window: int = 16 << 20
    max_frame_bytes: int = 1 << 14
    max_header_bytes: int = 16 << 10
    reset_burst: int = 2_000
    reset_rate: int = 500
    max_pending_acks: int = 1_000
    max_continuations: int = 32


def goaway_frame(code: int, reason: bytes = b"", last_stream_id: int = 0) -> bytes:
    """A GOAWAY frame for a connection whose engine can no longer make one."""
    payload = last_stream_id.to_bytes(4, "big") + code.to_bytes(4, "big") + reason
    return len(payload).to_bytes(3, "big") + b"\x07\x00\x00\x00\x00\x00" + payload


class Engine:
    """One endpoint of one HTTP/2 connection.

    The engine's methods are taken over as attributes, so that a call costs no frame of Python's. All of them may raise
    EngineError when their stream or the connection is gone.

    events() -> list: what happened since it was last asked; also after data_to_send.
    data_to_send(amount) -> bytes: what may be written now.
    send_request(headers, end_stream=) -> stream id; send_response(stream_id, headers, end_stream=).
    send_data(stream_id, data, end_stream=); send_trailers(stream_id, headers) after all data.
    reset_stream(stream_id, code); acknowledge(amount, stream_id): received bytes have been consumed.
    queued(stream_id): bytes of DATA not yet given out by data_to_send; of all streams without an argument.
    """

    __slots__ = (
        "_connection",
        "_receive",
        "acknowledge",
        "data_to_send",
        "events",
        "ping",
        "queued",
        "reset_stream",
        "send_data",
        "send_goaway",
        "send_request",
        "send_response",
        "send_trailers",
        "shutdown_notice",
        "terminate",
    )

    def __init__(self, role: ngh2.Role, limits: H2Limits, settings: Mapping[int, int]) -> None:
        configuration = ngh2.Configuration(
            auto_window_update=False,
            max_inbound_header_list_size=limits.max_header_bytes,
            max_outbound_ack=limits.max_pending_acks,
            max_continuations=limits.max_continuations,
            stream_reset_rate_limit=(limits.reset_burst, limits.reset_rate),
        )
        connection = ngh2.Connection(role, configuration)
        connection.initiate_connection(
            {
                Setting.INITIAL_WINDOW_SIZE: limits.stream_window,
                Setting.MAX_FRAME_SIZE: limits.max_frame_bytes,
                Setting.MAX_HEADER_LIST_SIZE: limits.max_header_bytes,
                **settings,
            }
        )
        connection.set_local_window_size(limits.connection_window)
        self._connection = connection
        self._receive = connection.receive_data
        self.acknowledge = connection.acknowledge_received_data
        self.data_to_send = connection.data_to_send
        self.events = connection.events
        self.ping = connection.ping
        self.queued = connection.queued_body_size
        self.reset_stream = connection.reset_stream
        self.send_data = connection.send_data
        self.send_goaway = connection.send_goaway
        self.send_request = connection.send_request
        self.send_response = connection.send_response
        self.send_trailers = connection.send_trailers
        self.shutdown_notice = connection.send_shutdown_notice
        self.terminate = connection.terminate_connection

    @classmethod
    def server(cls, limits: H2Limits) -> "Engine":
        return cls(ngh2.Role.SERVER, limits, {Setting.MAX_CONCURRENT_STREAMS: limits.max_concurrent_streams})

    @classmethod
    def client(cls, limits: H2Limits) -> "Engine":
        return cls(ngh2.Role.CLIENT, limits, {Setting.ENABLE_PUSH: 0})

    def receive(self, data: bytes) -> None:
        """Take bytes from the peer; then ask for events().

        Raises ConnectionFailed when the connection cannot go on. Violations that the protocol answers with GOAWAY
        do not raise: the frame is in data_to_send, and a ConnectionClosed event follows.
        """
        try:
            self._receive(data)
        except ngh2.DenialOfServiceError as error:
            raise Flooded(str(error)) from error
        except ngh2.NGH2Error as error:
            raise ConnectionFailed(ErrorCode.PROTOCOL_ERROR, str(error)) from error

    @property
    def has_news(self) -> bool:
        """Whether data_to_send() would give anything now."""
        return self._connection.want_write

    @property
    def can_send_request(self) -> bool:
        """Whether a new request may be made; not after a GOAWAY of the peer."""
        return self._connection.can_send_request

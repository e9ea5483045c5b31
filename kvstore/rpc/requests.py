"""Which requests are calls: what request headers must be like, and what those are told whose are not.

Source: gRPC over HTTP/2 (PROTOCOL-HTTP2.md), with grpc-go's texts. Knows header fields; not connections.
"""

from kvstore.rpc.framing import is_supported_encoding
from kvstore.rpc.metadata import Headers
from kvstore.rpc.method import Method, MethodTable
from kvstore.rpc.status import RpcError, StatusCode

_CONTENT_SUBTYPES = (b"application/grpc+", b"application/grpc;")


class NotACall(Exception):
    """A request that cannot be served. Answer it with http_status in the header, and with this status."""

    def __init__(self, http_status: bytes, status: RpcError) -> None:
        super().__init__(status.message)
        self.http_status = http_status
        self.status = status


def find_method(methods: MethodTable, fields: dict[bytes, bytes], headers: Headers) -> Method:
    """The method that a request asks for; fields: its headers by name. Raises NotACall.

    For requests that are not of the usual form, which the connection recognises by itself.
    """
    if fields.get(b":method") != b"POST":
        text = f"http2: received a request with method {fields.get(b':method', b'').decode('latin-1')!r}, not POST"
        raise NotACall(b"405", RpcError(StatusCode.INTERNAL, text))
    content_type = fields.get(b"content-type", b"")
    if content_type != b"application/grpc" and not content_type.startswith(
        (b"application/grpc+", b"application/grpc;")
    ):
        text = f'invalid gRPC request content-type "{content_type.decode("latin-1")}"'
        raise NotACall(b"415", RpcError(StatusCode.INVALID_ARGUMENT, text))
    try:
        method = methods.find(fields.get(b":path", b""), headers)
    except RpcError as error:
        raise NotACall(b"200", error) from error
    encoding = fields.get(b"grpc-encoding", b"identity")
    if not is_supported_encoding(encoding):
        text = f'grpc: Decompressor is not installed for grpc-encoding "{encoding.decode("latin-1")}"'
        raise NotACall(b"200", RpcError(StatusCode.UNIMPLEMENTED, text))
    return method

"""What can go wrong with a call, as classes: the server's answers by their exact text, and the client's own failures.

A server tells its errors apart by a gRPC code and a text; `from_status` is the one place where both become a class.
Knows nothing of connections or retries: whether a call is worth repeating is the transport's decision.
"""

from __future__ import annotations

from grpc import StatusCode


class ClientError(Exception):
    """Base of everything the client raises about a call."""


class NoEndpoints(ClientError, ValueError):
    """The client was given no endpoint."""

    def __init__(self) -> None:
        super().__init__("etcdclient: no available endpoints")


class ConnectionFailed(ClientError):
    """No endpoint could be reached in time; the message names them."""


class CallTimeout(ClientError):
    """The call's own time ran out. A write may have been applied all the same.

    The cause, where there is one, is the last error that the retries met.
    """

    def __init__(self) -> None:
        super().__init__("context deadline exceeded")


class ClientClosed(ClientError):
    """The client was closed before the call was made, or while it was."""

    def __init__(self) -> None:
        super().__init__("the client is closed")


class ServerError(ClientError):
    """An error that the server answered with. `code` is its gRPC status, `text` the exact message it is known by."""

    code: StatusCode = StatusCode.UNKNOWN
    text: str = ""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or self.text)


class RpcError(ServerError):
    """An answer with a text of no class of its own: the gRPC library's, or a newer server's."""

    def __init__(self, code: StatusCode, details: str) -> None:
        super().__init__(f"rpc error: code = {code_name(code)} desc = {details}")
        self.code = code
        self.details = details


class EmptyKey(ServerError):
    """A request without a key."""

    code = StatusCode.INVALID_ARGUMENT
    text = "etcdserver: key is not provided"


class KeyNotFound(ServerError):
    """`ignore_value` or `ignore_lease` on a key that does not exist."""

    code = StatusCode.INVALID_ARGUMENT
    text = "etcdserver: key not found"


class ValueProvided(ServerError):
    """A value given together with `ignore_value`."""

    code = StatusCode.INVALID_ARGUMENT
    text = "etcdserver: value is provided"


class LeaseProvided(ServerError):
    """A lease given together with `ignore_lease`."""

    code = StatusCode.INVALID_ARGUMENT
    text = "etcdserver: lease is provided"


class TooManyOps(ServerError):
    """More operations in one branch of a transaction than the server's `--max-txn-ops`."""

    code = StatusCode.INVALID_ARGUMENT
    text = "etcdserver: too many operations in txn request"


class DuplicateKey(ServerError):
    """A transaction that writes one key twice."""

    code = StatusCode.INVALID_ARGUMENT
    text = "etcdserver: duplicate key given in txn request"


class InvalidClientAPIVersion(ServerError):
    """The client named an API version the server does not know."""

    code = StatusCode.INVALID_ARGUMENT
    text = "etcdserver: invalid client api version"


class InvalidSortOption(ServerError):
    """A sort order or target the server does not know."""

    code = StatusCode.INVALID_ARGUMENT
    text = "etcdserver: invalid sort option"


class Compacted(ServerError):
    """The revision asked for is gone: history before `compact_revision` (0 if the server did not say) was compacted."""

    code = StatusCode.OUT_OF_RANGE
    text = "etcdserver: mvcc: required revision has been compacted"

    def __init__(self, message: str = "", compact_revision: int = 0) -> None:
        super().__init__(message)
        self.compact_revision = compact_revision


class FutureRev(ServerError):
    """The revision asked for has not been reached yet."""

    code = StatusCode.OUT_OF_RANGE
    text = "etcdserver: mvcc: required revision is a future revision"


class NoSpace(ServerError):
    """The store is over its quota: it takes deletes, compaction and disarming only."""

    code = StatusCode.RESOURCE_EXHAUSTED
    text = "etcdserver: mvcc: database space exceeded"


class LeaseNotFound(ServerError):
    """No such lease: never granted, expired or revoked."""

    code = StatusCode.NOT_FOUND
    text = "etcdserver: requested lease not found"


class LeaseExist(ServerError):
    """A lease with that id exists."""

    code = StatusCode.FAILED_PRECONDITION
    text = "etcdserver: lease already exists"


class LeaseTTLTooLarge(ServerError):
    """A lease may live 9,000,000,000 s at most."""

    code = StatusCode.OUT_OF_RANGE
    text = "etcdserver: too large lease TTL"


class WatchCanceled(ServerError):
    """The server ended the watch; the reason is the message."""

    code = StatusCode.CANCELLED
    text = "etcdserver: watch canceled"


class MemberExist(ServerError):
    """Member ID already exist."""

    code = StatusCode.FAILED_PRECONDITION
    text = "etcdserver: member ID already exist"


class PeerURLExist(ServerError):
    """Peer URLs already exists."""

    code = StatusCode.FAILED_PRECONDITION
    text = "etcdserver: Peer URLs already exists"


class MemberNotEnoughStarted(ServerError):
    """Re-configuration failed due to not enough started members."""

    code = StatusCode.FAILED_PRECONDITION
    text = "etcdserver: re-configuration failed due to not enough started members"


class MemberBadURLs(ServerError):
    """Given member URLs are invalid."""

    code = StatusCode.INVALID_ARGUMENT
    text = "etcdserver: given member URLs are invalid"


class MemberNotFound(ServerError):
    """Member not found."""

    code = StatusCode.NOT_FOUND
    text = "etcdserver: member not found"


class MemberNotLearner(ServerError):
    """Can only promote a learner member."""

    code = StatusCode.FAILED_PRECONDITION
    text = "etcdserver: can only promote a learner member"


class LearnerNotReady(ServerError):
    """Can only promote a learner member which is in sync with leader."""

    code = StatusCode.FAILED_PRECONDITION
    text = "etcdserver: can only promote a learner member which is in sync with leader"


class TooManyLearners(ServerError):
    """Too many learner members in cluster."""

    code = StatusCode.FAILED_PRECONDITION
    text = "etcdserver: too many learner members in cluster"


class ClusterIDMismatch(ServerError):
    """Cluster ID mismatch."""

    code = StatusCode.FAILED_PRECONDITION
    text = "etcdserver: cluster ID mismatch"


class RequestTooLarge(ServerError):
    """Request is too large."""

    code = StatusCode.INVALID_ARGUMENT
    text = "etcdserver: request is too large"


class RequestTooManyRequests(ServerError):
    """Too many requests."""

    code = StatusCode.RESOURCE_EXHAUSTED
    text = "etcdserver: too many requests"


class RootUserNotExist(ServerError):
    """Root user does not exist."""

    code = StatusCode.FAILED_PRECONDITION
    text = "etcdserver: root user does not exist"


class RootRoleNotExist(ServerError):
    """Root user does not have root role."""

    code = StatusCode.FAILED_PRECONDITION
    text = "etcdserver: root user does not have root role"


class UserAlreadyExist(ServerError):
    """User name already exists."""

    code = StatusCode.FAILED_PRECONDITION
    text = "etcdserver: user name already exists"


class UserEmpty(ServerError):
    """User name is empty."""

    code = StatusCode.INVALID_ARGUMENT
    text = "etcdserver: user name is empty"


class UserNotFound(ServerError):
    """User name not found."""

    code = StatusCode.FAILED_PRECONDITION
    text = "etcdserver: user name not found"


class RoleAlreadyExist(ServerError):
    """Role name already exists."""

    code = StatusCode.FAILED_PRECONDITION
    text = "etcdserver: role name already exists"


class RoleNotFound(ServerError):
    """Role name not found."""

    code = StatusCode.FAILED_PRECONDITION
    text = "etcdserver: role name not found"


class RoleEmpty(ServerError):
    """Role name is empty."""

    code = StatusCode.INVALID_ARGUMENT
    text = "etcdserver: role name is empty"


class AuthFailed(ServerError):
    """Authentication failed, invalid user ID or password."""

    code = StatusCode.INVALID_ARGUMENT
    text = "etcdserver: authentication failed, invalid user ID or password"


class PermissionNotGiven(ServerError):
    """Permission not given."""

    code = StatusCode.INVALID_ARGUMENT
    text = "etcdserver: permission not given"


class PermissionDenied(ServerError):
    """Permission denied."""

    code = StatusCode.PERMISSION_DENIED
    text = "etcdserver: permission denied"


class RoleNotGranted(ServerError):
    """Role is not granted to the user."""

    code = StatusCode.FAILED_PRECONDITION
    text = "etcdserver: role is not granted to the user"


class PermissionNotGranted(ServerError):
    """Permission is not granted to the role."""

    code = StatusCode.FAILED_PRECONDITION
    text = "etcdserver: permission is not granted to the role"


class AuthNotEnabled(ServerError):
    """Authentication is not enabled."""

    code = StatusCode.FAILED_PRECONDITION
    text = "etcdserver: authentication is not enabled"


class InvalidAuthToken(ServerError):
    """Invalid auth token."""

    code = StatusCode.UNAUTHENTICATED
    text = "etcdserver: invalid auth token"


class InvalidAuthMgmt(ServerError):
    """Invalid auth management."""

    code = StatusCode.INVALID_ARGUMENT
    text = "etcdserver: invalid auth management"


class AuthOldRevision(ServerError):
    """Revision of auth store is old."""

    code = StatusCode.INVALID_ARGUMENT
    text = "etcdserver: revision of auth store is old"


class NoLeader(ServerError):
    """No leader."""

    code = StatusCode.UNAVAILABLE
    text = "etcdserver: no leader"


class NotLeader(ServerError):
    """Not leader."""

    code = StatusCode.FAILED_PRECONDITION
    text = "etcdserver: not leader"


class LeaderChanged(ServerError):
    """Leader changed."""

    code = StatusCode.UNAVAILABLE
    text = "etcdserver: leader changed"


class NotCapable(ServerError):
    """Not capable."""

    code = StatusCode.FAILED_PRECONDITION
    text = "etcdserver: not capable"


class Stopped(ServerError):
    """Server stopped."""

    code = StatusCode.UNAVAILABLE
    text = "etcdserver: server stopped"


class RequestTimeout(ServerError):
    """Request timed out."""

    code = StatusCode.UNAVAILABLE
    text = "etcdserver: request timed out"


class TimeoutDueToLeaderFail(ServerError):
    """Request timed out, possibly due to previous leader failure."""

    code = StatusCode.UNAVAILABLE
    text = "etcdserver: request timed out, possibly due to previous leader failure"


class TimeoutDueToConnectionLost(ServerError):
    """Request timed out, possibly due to connection lost."""

    code = StatusCode.UNAVAILABLE
    text = "etcdserver: request timed out, possibly due to connection lost"


class TimeoutWaitAppliedIndex(ServerError):
    """Request timed out, waiting for the applied index took too long."""

    code = StatusCode.UNAVAILABLE
    text = "etcdserver: request timed out, waiting for the applied index took too long"


class NoRoomToCatchUp(ServerError):
    """The member's disk is full, and it lacks what the read must show."""

    code = StatusCode.UNAVAILABLE
    text = "etcdserver: the disk is full, and this member cannot keep up with the others"


class Unhealthy(ServerError):
    """Unhealthy cluster."""

    code = StatusCode.UNAVAILABLE
    text = "etcdserver: unhealthy cluster"


class Corrupt(ServerError):
    """Corrupt cluster."""

    code = StatusCode.DATA_LOSS
    text = "etcdserver: corrupt cluster"


class NotSupportedForLearner(ServerError):
    """Rpc not supported for learner."""

    code = StatusCode.FAILED_PRECONDITION
    text = "etcdserver: rpc not supported for learner"


class BadLeaderTransferee(ServerError):
    """Bad leader transferee."""

    code = StatusCode.FAILED_PRECONDITION
    text = "etcdserver: bad leader transferee"


class WrongDowngradeVersionFormat(ServerError):
    """Wrong downgrade target version format."""

    code = StatusCode.INVALID_ARGUMENT
    text = "etcdserver: wrong downgrade target version format"


class InvalidDowngradeTargetVersion(ServerError):
    """Invalid downgrade target version."""

    code = StatusCode.INVALID_ARGUMENT
    text = "etcdserver: invalid downgrade target version"


class ClusterVersionUnavailable(ServerError):
    """Cluster version not found during downgrade."""

    code = StatusCode.FAILED_PRECONDITION
    text = "etcdserver: cluster version not found during downgrade"


class DowngradeInProcess(ServerError):
    """Cluster has a downgrade job in progress."""

    code = StatusCode.FAILED_PRECONDITION
    text = "etcdserver: cluster has a downgrade job in progress"


class NoInflightDowngrade(ServerError):
    """No inflight downgrade job."""

    code = StatusCode.FAILED_PRECONDITION
    text = "etcdserver: no inflight downgrade job"


class Canceled(ServerError):
    """Request canceled."""

    code = StatusCode.CANCELLED
    text = "etcdserver: request canceled"


class DeadlineExceeded(ServerError):
    """Context deadline exceeded."""

    code = StatusCode.DEADLINE_EXCEEDED
    text = "etcdserver: context deadline exceeded"


_BY_TEXT = {error.text: error for error in ServerError.__subclasses__() if error.text}


def code_name(code: StatusCode) -> str:
    """The status as the Go implementation spells it: `NotFound`, `Canceled`."""
    return {StatusCode.CANCELLED: "Canceled", StatusCode.OK: "OK"}.get(code) or code.name.title().replace("_", "")


def from_status(code: StatusCode, details: str) -> ServerError:
    """The error that a server's status stands for; `RpcError` if the text is not one of the API's."""
    known = _BY_TEXT.get(details)
    return known() if known is not None else RpcError(code, details)


def from_cancel_reason(reason: str) -> ServerError:
    """The error behind the text with which a server ends a watch; `WatchCanceled` with that text if it has no class."""
    known = _BY_TEXT.get(reason.rpartition(" desc = ")[2])
    return known() if known is not None else WatchCanceled(reason)

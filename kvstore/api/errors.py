"""The gRPC status and text of every domain error: the one place where the two meet."""

from kvstore import errors
from kvstore.rpc import RpcError, StatusCode
from kvstore.storage.errors import CorruptStore

STATUS: dict[type[errors.KvstoreError], tuple[StatusCode, str]] = {
    errors.EmptyKey: (StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided"),
    errors.KeyNotFound: (StatusCode.INVALID_ARGUMENT, "etcdserver: key not found"),
    errors.ValueProvided: (StatusCode.INVALID_ARGUMENT, "etcdserver: value is provided"),
    errors.LeaseProvided: (StatusCode.INVALID_ARGUMENT, "etcdserver: lease is provided"),
    errors.TooManyOps: (StatusCode.INVALID_ARGUMENT, "etcdserver: too many operations in txn request"),
    errors.DuplicateKey: (StatusCode.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request"),
    errors.InvalidClientAPIVersion: (StatusCode.INVALID_ARGUMENT, "etcdserver: invalid client api version"),
    errors.InvalidSortOption: (StatusCode.INVALID_ARGUMENT, "etcdserver: invalid sort option"),
    errors.Compacted: (StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"),
    errors.FutureRev: (StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision"),
    errors.NoSpace: (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"),
    errors.LeaseNotFound: (StatusCode.NOT_FOUND, "etcdserver: requested lease not found"),
    errors.LeaseExist: (StatusCode.FAILED_PRECONDITION, "etcdserver: lease already exists"),
    errors.LeaseTTLTooLarge: (StatusCode.OUT_OF_RANGE, "etcdserver: too large lease TTL"),
    errors.WatchCanceled: (StatusCode.CANCELLED, "etcdserver: watch canceled"),
    errors.MemberExist: (StatusCode.FAILED_PRECONDITION, "etcdserver: member ID already exist"),
    errors.PeerURLExist: (StatusCode.FAILED_PRECONDITION, "etcdserver: Peer URLs already exists"),
    errors.MemberNotEnoughStarted: (
        StatusCode.FAILED_PRECONDITION,
        "etcdserver: re-configuration failed due to not enough started members",
    ),
    errors.MemberBadURLs: (StatusCode.INVALID_ARGUMENT, "etcdserver: given member URLs are invalid"),
    errors.MemberNotFound: (StatusCode.NOT_FOUND, "etcdserver: member not found"),
    errors.MemberNotLearner: (StatusCode.FAILED_PRECONDITION, "etcdserver: can only promote a learner member"),
    errors.LearnerNotReady: (
        StatusCode.FAILED_PRECONDITION,
        "etcdserver: can only promote a learner member which is in sync with leader",
    ),
    errors.TooManyLearners: (StatusCode.FAILED_PRECONDITION, "etcdserver: too many learner members in cluster"),
    errors.ClusterIDMismatch: (StatusCode.FAILED_PRECONDITION, "etcdserver: cluster ID mismatch"),
    errors.RequestTooLarge: (StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large"),
    errors.RequestTooManyRequests: (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests"),
    errors.RootUserNotExist: (StatusCode.FAILED_PRECONDITION, "etcdserver: root user does not exist"),
    errors.RootRoleNotExist: (StatusCode.FAILED_PRECONDITION, "etcdserver: root user does not have root role"),
    errors.UserAlreadyExist: (StatusCode.FAILED_PRECONDITION, "etcdserver: user name already exists"),
    errors.UserEmpty: (StatusCode.INVALID_ARGUMENT, "etcdserver: user name is empty"),
    errors.UserNotFound: (StatusCode.FAILED_PRECONDITION, "etcdserver: user name not found"),
    errors.RoleAlreadyExist: (StatusCode.FAILED_PRECONDITION, "etcdserver: role name already exists"),
    errors.RoleNotFound: (StatusCode.FAILED_PRECONDITION, "etcdserver: role name not found"),
    errors.RoleEmpty: (StatusCode.INVALID_ARGUMENT, "etcdserver: role name is empty"),
    errors.AuthFailed: (StatusCode.INVALID_ARGUMENT, "etcdserver: authentication failed, invalid user ID or password"),
    errors.PermissionNotGiven: (StatusCode.INVALID_ARGUMENT, "etcdserver: permission not given"),
    errors.PermissionDenied: (StatusCode.PERMISSION_DENIED, "etcdserver: permission denied"),
    errors.RoleNotGranted: (StatusCode.FAILED_PRECONDITION, "etcdserver: role is not granted to the user"),
    errors.PermissionNotGranted: (StatusCode.FAILED_PRECONDITION, "etcdserver: permission is not granted to the role"),
    errors.AuthNotEnabled: (StatusCode.FAILED_PRECONDITION, "etcdserver: authentication is not enabled"),
    errors.InvalidAuthToken: (StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token"),
    errors.InvalidAuthMgmt: (StatusCode.INVALID_ARGUMENT, "etcdserver: invalid auth management"),
    errors.AuthOldRevision: (StatusCode.INVALID_ARGUMENT, "etcdserver: revision of auth store is old"),
    errors.NoLeader: (StatusCode.UNAVAILABLE, "etcdserver: no leader"),
    errors.NotLeader: (StatusCode.FAILED_PRECONDITION, "etcdserver: not leader"),
    errors.LeaderChanged: (StatusCode.UNAVAILABLE, "etcdserver: leader changed"),
    errors.NotCapable: (StatusCode.FAILED_PRECONDITION, "etcdserver: not capable"),
    errors.Stopped: (StatusCode.UNAVAILABLE, "etcdserver: server stopped"),
    errors.RequestTimeout: (StatusCode.UNAVAILABLE, "etcdserver: request timed out"),
    errors.TimeoutDueToLeaderFail: (
        StatusCode.UNAVAILABLE,
        "etcdserver: request timed out, possibly due to previous leader failure",
    ),
    errors.TimeoutDueToConnectionLost: (
        StatusCode.UNAVAILABLE,
        "etcdserver: request timed out, possibly due to connection lost",
    ),
    errors.TimeoutWaitAppliedIndex: (
        StatusCode.UNAVAILABLE,
        "etcdserver: request timed out, waiting for the applied index took too long",
    ),
    errors.NoRoomToCatchUp: (
        StatusCode.UNAVAILABLE,
        "etcdserver: the disk is full, and this member cannot keep up with the others",
    ),
    errors.Unhealthy: (StatusCode.UNAVAILABLE, "etcdserver: unhealthy cluster"),
    errors.Corrupt: (StatusCode.DATA_LOSS, "etcdserver: corrupt cluster"),
    errors.NotSupportedForLearner: (StatusCode.FAILED_PRECONDITION, "etcdserver: rpc not supported for learner"),
    errors.BadLeaderTransferee: (StatusCode.FAILED_PRECONDITION, "etcdserver: bad leader transferee"),
    errors.WrongDowngradeVersionFormat: (
        StatusCode.INVALID_ARGUMENT,
        "etcdserver: wrong downgrade target version format",
    ),
    errors.InvalidDowngradeTargetVersion: (StatusCode.INVALID_ARGUMENT, "etcdserver: invalid downgrade target version"),
    errors.ClusterVersionUnavailable: (
        StatusCode.FAILED_PRECONDITION,
        "etcdserver: cluster version not found during downgrade",
    ),
    errors.DowngradeInProcess: (StatusCode.FAILED_PRECONDITION, "etcdserver: cluster has a downgrade job in progress"),
    errors.NoInflightDowngrade: (StatusCode.FAILED_PRECONDITION, "etcdserver: no inflight downgrade job"),
    errors.Canceled: (StatusCode.CANCELLED, "etcdserver: request canceled"),
    errors.DeadlineExceeded: (StatusCode.DEADLINE_EXCEEDED, "etcdserver: context deadline exceeded"),
}


def to_rpc_error(error: errors.KvstoreError) -> RpcError:
    """What the client is told of `error`."""
    code, message = STATUS[type(error)]
    return RpcError(code, message)


def translate(error: Exception) -> RpcError | None:
    """For a gRPC server: what the client is told of a handler's exception, None if it is not of the domain.

    What is broken on this member's disk is said in its log: a client can only go to another member.
    """
    if isinstance(error, CorruptStore):
        return to_rpc_error(errors.Corrupt())
    status = STATUS.get(type(error)) if isinstance(error, errors.KvstoreError) else None
    return None if status is None else RpcError(*status)

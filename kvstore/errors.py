"""What can be wrong with a request, as exceptions of the domain.

The names are those of the etcd v3 API. Here is only what is wrong; the gRPC code and the text that a client sees are
given to each in one place, `kvstore.api.errors`.
"""


class KvstoreError(Exception):
    """A request that cannot be served; it changed nothing."""


class EmptyKey(KvstoreError):
    """Key is not provided."""


class KeyNotFound(KvstoreError):
    """Key not found."""


class ValueProvided(KvstoreError):
    """Value is provided."""


class LeaseProvided(KvstoreError):
    """Lease is provided."""


class TooManyOps(KvstoreError):
    """Too many operations in txn request."""


class DuplicateKey(KvstoreError):
    """Duplicate key given in txn request."""


class InvalidClientAPIVersion(KvstoreError):
    """Invalid client api version."""


class InvalidSortOption(KvstoreError):
    """Invalid sort option."""


class Compacted(KvstoreError):
    """Mvcc: required revision has been compacted."""


class FutureRev(KvstoreError):
    """Mvcc: required revision is a future revision."""


class NoSpace(KvstoreError):
    """Mvcc: database space exceeded."""


class LeaseNotFound(KvstoreError):
    """Requested lease not found."""


class LeaseExist(KvstoreError):
    """Lease already exists."""


class LeaseTTLTooLarge(KvstoreError):
    """Too large lease TTL."""


class WatchCanceled(KvstoreError):
    """Watch canceled."""


class MemberExist(KvstoreError):
    """Member ID already exist."""


class PeerURLExist(KvstoreError):
    """Peer URLs already exists."""


class MemberNotEnoughStarted(KvstoreError):
    """Re-configuration failed due to not enough started members."""


class MemberBadURLs(KvstoreError):
    """Given member URLs are invalid."""


class MemberNotFound(KvstoreError):
    """Member not found."""


class MemberNotLearner(KvstoreError):
    """Can only promote a learner member."""


class LearnerNotReady(KvstoreError):
    """Can only promote a learner member which is in sync with leader."""


class TooManyLearners(KvstoreError):
    """Too many learner members in cluster."""


class ClusterIDMismatch(KvstoreError):
    """Cluster ID mismatch."""


class RequestTooLarge(KvstoreError):
    """Request is too large."""


class RequestTooManyRequests(KvstoreError):
    """Too many requests."""


class RootUserNotExist(KvstoreError):
    """Root user does not exist."""


class RootRoleNotExist(KvstoreError):
    """Root user does not have root role."""


class UserAlreadyExist(KvstoreError):
    """User name already exists."""


class UserEmpty(KvstoreError):
    """User name is empty."""


class UserNotFound(KvstoreError):
    """User name not found."""


class RoleAlreadyExist(KvstoreError):
    """Role name already exists."""


class RoleNotFound(KvstoreError):
    """Role name not found."""


class RoleEmpty(KvstoreError):
    """Role name is empty."""


class AuthFailed(KvstoreError):
    """Authentication failed, invalid user ID or password."""


class PermissionNotGiven(KvstoreError):
    """Permission not given."""


class PermissionDenied(KvstoreError):
    """Permission denied."""


class RoleNotGranted(KvstoreError):
    """Role is not granted to the user."""


class PermissionNotGranted(KvstoreError):
    """Permission is not granted to the role."""


class AuthNotEnabled(KvstoreError):
    """Authentication is not enabled."""


class InvalidAuthToken(KvstoreError):
    """Invalid auth token."""


class InvalidAuthMgmt(KvstoreError):
    """Invalid auth management."""


class AuthOldRevision(KvstoreError):
    """Revision of auth store is old."""


class NoLeader(KvstoreError):
    """No leader."""


class NotLeader(KvstoreError):
    """Not leader."""


class LeaderChanged(KvstoreError):
    """Leader changed."""


class NotCapable(KvstoreError):
    """Not capable."""


class Stopped(KvstoreError):
    """Server stopped."""


class RequestTimeout(KvstoreError):
    """Request timed out."""


class TimeoutDueToLeaderFail(KvstoreError):
    """Request timed out, possibly due to previous leader failure."""


class TimeoutDueToConnectionLost(KvstoreError):
    """Request timed out, possibly due to connection lost."""


class TimeoutWaitAppliedIndex(KvstoreError):
    """Request timed out, waiting for the applied index took too long."""


class NoRoomToCatchUp(KvstoreError):
    """The member's disk is full, and it lacks what the read must show."""


class Unhealthy(KvstoreError):
    """Unhealthy cluster."""


class Corrupt(KvstoreError):
    """Corrupt cluster."""


class NotSupportedForLearner(KvstoreError):
    """Rpc not supported for learner."""


class BadLeaderTransferee(KvstoreError):
    """Bad leader transferee."""


class WrongDowngradeVersionFormat(KvstoreError):
    """Wrong downgrade target version format."""


class InvalidDowngradeTargetVersion(KvstoreError):
    """Invalid downgrade target version."""


class ClusterVersionUnavailable(KvstoreError):
    """Cluster version not found during downgrade."""


class DowngradeInProcess(KvstoreError):
    """Cluster has a downgrade job in progress."""


class NoInflightDowngrade(KvstoreError):
    """No inflight downgrade job."""


class Canceled(KvstoreError):
    """Request canceled."""


class DeadlineExceeded(KvstoreError):
    """Context deadline exceeded."""

"""A new cluster from a snapshot file: the data directory of one of its members, made offline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kvstore.peer.codec import encode_conf_state
from kvstore.peer.versions import LOWEST
from kvstore.server.bootstrap import found_cluster
from kvstore.server.cluster_version import CLUSTER_VERSION, encode_version
from kvstore.server.config import Config, Url
from kvstore.server.state import CONF_STATE
from kvstore.storage import snapshot_file
from kvstore.storage.meta import Identity
from raft.messages import ConfState


def restore(
    snapshot: Path,
    *,
    data_dir: Path,
    name: str,
    peer_urls: tuple[Url, ...],
    initial_cluster: Mapping[str, tuple[Url, ...]],
    cluster_token: str,
    wal_dir: Path | None = None,
    skip_hash_check: bool = False,
) -> Identity:
    """Make the data directory of member `name` of a new cluster that begins with the state in `snapshot`.

    Each member is restored from the same file with the same initial_cluster and cluster_token, which decide the ids;
    the members of the old cluster cannot join by mistake. Keys, revisions and leases are those of the snapshot; who
    belongs to the cluster, and alarms, are not. Returns whom the directory is for.
    Raises ConfigError or BootstrapError for names and URLs that do not fit, SnapshotInvalid for the file, StorageError
    if there is data already or it cannot be written.
    """
    config = Config(
        name=name,
        data_dir=data_dir,
        initial_advertise_peer_urls=peer_urls,
        initial_cluster=initial_cluster,
        initial_cluster_token=cluster_token,
    )
    origin = found_cluster(config)
    members = {member.ID.to_bytes(8, "big"): member.SerializeToString() for member in origin.members}
    conf_state = ConfState(voters=[member.ID for member in origin.members])
    identity = Identity(origin.cluster_id, origin.member_id)
    snapshot_file.restore(
        snapshot,
        data_dir,
        identity,
        len(origin.members),
        # A new cluster agrees anew on what its members speak: this is how one gets back to an older version.
        {CONF_STATE: encode_conf_state(conf_state).SerializeToString(), CLUSTER_VERSION: encode_version(LOWEST)},
        {"members": members, "removed_members": {}, "alarms": {}},
        wal_dir,
        skip_hash_check,
    )
    return identity

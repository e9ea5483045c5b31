"""All targets, by name."""

from __future__ import annotations

from typing import Final

from tests.fuzz import (
    client_bytes,
    encodings,
    journal_bytes,
    members,
    peer_bytes,
    replicas,
    rpc_bytes,
    settings,
    stored_bytes,
)
from tests.fuzz.target import Target

TARGETS: Final[dict[str, Target]] = {
    target.name: target
    for module in (
        rpc_bytes,
        client_bytes,
        encodings,
        replicas,
        peer_bytes,
        journal_bytes,
        stored_bytes,
        settings,
        members,
    )
    for target in module.TARGETS
}

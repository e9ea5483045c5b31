"""What runs outside the member's loop: a step of compaction in the writer process, hashing in a reader process.

Both work on what is committed, within one transaction. Imported by those processes, so nothing heavy is imported here.

Compaction and writes that are not flushed yet. A compaction at revision C runs its steps only after everything that
was applied before it has been committed, so what a step does not see was applied after it. Such a write that replaces
a version at or below C puts that version's history row back in its own batch: whether the step has removed the row
before, because it found the version still in `current`, makes no difference.
"""

from hashlib import blake2b

from kvstore.mvcc.encoding import (
    DELETE,
    MAX_SUB,
    REVISION,
    REVISION_SIZE,
    TRAILER_SIZE,
    key_of_history,
    version_of,
)
from kvstore.storage.longkey import CHUNK
from kvstore.storage.transaction import ReadTransaction, WriteTransaction

COMPACT_KEY = "compact_revision"
"""Name in `meta` of the compacted revision; -1 if there was no compaction."""

_MASK = 0xFFFFFFFFFFFFFFFF


def committed_compaction(txn: ReadTransaction) -> int:
    """The compacted revision as it is committed."""
    stored = txn.get("meta", COMPACT_KEY.encode())
    return -1 if stored is None else int.from_bytes(stored, "big", signed=True)


def compact_step(txn: WriteTransaction, arguments: tuple[int, bytes, int]) -> tuple[bytes | None, int]:
    """Remove from a stretch of history what no read at the compacted revision or later, and no watch, can want.

    arguments: the compacted revision, the history key to go on from, how many rows to look at. Returns where to go on,
    None at the end, and how many rows were removed; -1 if the compaction itself is not committed yet: nothing was done.

    Rows of the compacted revision itself stay until the next compaction: a watch may start there.
    """
    compacted, start, limit = arguments
    if committed_compaction(txn) < compacted:
        return start, -1
    end = REVISION.pack(compacted, 0)
    newest_visible = REVISION.pack(compacted, MAX_SUB)
    gone: list[bytes] = []
    past: dict[bytes, tuple[list[bytes], list[bytes]]] = {}
    last: bytes | None = None
    for seen, (revision, row) in enumerate(txn.items("history", start, end), start=1):
        key = key_of_history(row)
        if _is_dispensable(txn, key, revision, row[0], newest_visible):
            gone.append(revision)
            flag = b"\x01" if row[0] == DELETE else b"\0"
            past.setdefault(key, ([], []))[1].append(revision + flag)
        if seen >= limit:
            last = revision
            break
    if gone:
        txn.delete("history", gone)
        txn.change_dups("past", past)
    return (None if last is None else last + b"\0"), len(gone)


def _is_dispensable(txn: ReadTransaction, key: bytes, revision: bytes, kind: int, newest_visible: bytes) -> bool:
    if kind == DELETE:
        return True
    row = txn.get("current", key)
    if row is not None:
        version = version_of(row)
        present = REVISION.pack(version.mod_revision, version.sub)
        if present <= newest_visible:
            # Nothing older can be seen, and the version itself is in `current`.
            return revision <= present
    newer = _next_past(txn, key, revision)
    return newer is not None and newer <= newest_visible


def _next_past(txn: ReadTransaction, key: bytes, revision: bytes) -> bytes | None:
    """The revision in `past` that follows a revision of a key."""
    after = revision + b"\xff"
    if len(key) > CHUNK:
        return next((value[:REVISION_SIZE] for value in txn.values("past", key) if value > after), None)
    # Straight to its place: a key may have a million past versions.
    handle = txn.handle("past")
    with txn.raw.cursor(handle.main) as cursor:
        found = cursor.set_range_dup(key, after)
        return handle.seal.take_off(key, cursor.value())[:REVISION_SIZE] if found else None


def hash_revisions(txn: ReadTransaction, arguments: tuple[int]) -> tuple[int, int]:
    """Hash what can be seen from the compacted revision up to a revision; the hash and the compacted revision.

    The same on every member for the same two revisions, however far their physical compaction has come. The rows are
    hashed one by one and the hashes added up, so that the order of tables does not matter. Raises CorruptStore, also
    where damage hides rows, of whichever revision.
    """
    (upto,) = arguments
    txn.check_complete()
    compacted = committed_compaction(txn)
    total = 0
    newest_visible = REVISION.pack(max(compacted, 0), MAX_SUB)
    if compacted > 0:
        for _, row in txn.items("current"):
            version = version_of(row)
            if version.mod_revision <= compacted:
                total += _digest(REVISION.pack(version.mod_revision, version.sub), row[:-TRAILER_SIZE])
        for key, values in txn.dup_items("past"):
            visible = [value for value in values if value[:REVISION_SIZE] <= newest_visible]
            if not visible or visible[-1][REVISION_SIZE]:
                continue
            present = txn.get("current", key)
            if present is not None and version_of(present).mod_revision <= compacted:
                continue
            revision = visible[-1][:REVISION_SIZE]
            old = txn.get("history", revision)
            if old is None:
                main = int.from_bytes(revision[:8], "big")
                raise txn.handle("history").seal.damaged(f"what belongs to revision {main}")
            total += _digest(revision, old[1:])
    first = REVISION.pack(max(compacted, 0) + 1, 0)
    for revision, row in txn.items("history", first, REVISION.pack(upto + 1, 0)):
        total += _digest(revision, row[1:])
    return _fold(total), compacted


def hash_state(txn: ReadTransaction, arguments: tuple[()]) -> int:
    """Hash the whole replicated state as it is committed: keys with their history, and leases."""
    total, _ = hash_revisions(txn, (_MASK >> 1,))
    for table in ("leases", "lease_keys"):
        for key, row in txn.items(table):
            total += _digest(key, row)
    return _fold(total)


def _digest(key: bytes, row: bytes) -> int:
    return int.from_bytes(blake2b(key + row, digest_size=8).digest(), "big")


def _fold(total: int) -> int:
    total &= _MASK
    return (total ^ total >> 32) & 0xFFFFFFFF

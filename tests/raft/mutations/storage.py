"""Faults in what is stored, reported as stored, snapshotted, and applied."""

from __future__ import annotations

from typing import Final

from tests.raft.mutations.mutation import Mutation

STORAGE: Final = (
    Mutation(
        "stale-storage-report-taken",
        "raft/rawnode.py",
        "MessageType.STORAGE_APPEND_RESP, r.id, LOCAL_APPEND_THREAD, term=r.term, snapshot=ready.snapshot",
        "MessageType.STORAGE_APPEND_RESP, r.id, LOCAL_APPEND_THREAD, term=0, snapshot=ready.snapshot",
        "A report about a write from before two changes of leader passes for one about a later write (A-B-A).",
        "library: overlapping writes",
    ),
    Mutation(
        "replaced-entry-taken-for-stored",
        "raft/unstable.py",
        "        elif held != term:\n",
        "        elif False:\n",
        "A report about an entry that was replaced meanwhile makes the log take the new one for stored.",
        "library: overlapping writes",
    ),
    Mutation(
        "replacing-entries-not-written",
        "raft/unstable.py",
        "            self.offset_in_progress = min(self.offset_in_progress, first)\n",
        "",
        "Entries that replace others whose write is under way are never handed out for writing.",
        "figure 2",
    ),
    Mutation(
        "storage-keeps-the-conflicting-suffix",
        "raft/storage.py",
        "            del self._entries[position:]\n",
        "            del self._entries[position : position + len(entries)]\n",
        "Stored entries that follow a replaced one stay, out of order.",
        "§5.3",
    ),
    Mutation(
        "compaction-forgets-the-term",
        "raft/storage.py",
        "        self._offset_term = self.term(compact_index)\n",
        "",
        "After compaction an append right behind what is gone cannot be matched.",
        "§7",
    ),
    Mutation(
        "applied-before-stored",
        "raft/log.py",
        "return self.committed if allow_unstable else min(self.committed, self.unstable.offset - 1)",
        "return self.committed",
        "With overlapping writes a member applies entries that its own storage does not hold yet.",
        "library: overlapping writes",
    ),
    Mutation(
        "applied-beside-a-snapshot",
        "raft/log.py",
        "if self._applying_paused or self.unstable.snapshot is not None:",
        "if self._applying_paused:",
        "Entries behind a snapshot are handed out before the snapshot is applied.",
        "§7",
    ),
    Mutation(
        "applying-not-limited",
        "raft/log.py",
        "self._applying_paused = self._applying_size >= self._max_applying_size or index <",
        "self._applying_paused = False and index <",
        "Any amount of entries is handed out while earlier ones are still being applied.",
        "library: max_committed_size_per_ready",
    ),
    Mutation(
        "snapshot-goes-back",
        "raft/follower.py",
        "    if metadata.index <= log.committed:\n",
        "    if metadata.index <= 0:\n",
        "A late snapshot replaces a log that is committed beyond it.",
        "§7",
    ),
    Mutation(
        "snapshot-drops-what-it-does-not-cover",
        "raft/follower.py",
        "if log.match_term(metadata.index, metadata.term):",
        "if False:",
        "A snapshot of a part of the log drops the rest, which the member has acknowledged.",
        "§7",
    ),
    Mutation(
        "refused-snapshot-acknowledged",
        "raft/follower.py",
        "index = r.log.last_index() if restored else r.log.committed",
        "index = metadata.index",
        "A member that could not use a snapshot acknowledges what is in it.",
        "§7",
    ),
    Mutation(
        "snapshot-without-its-configuration",
        "raft/follower.py",
        "    r.tracker = Tracker(r.tracker.max_inflight, r.tracker.max_inflight_bytes)\n"
        "    r.restore_config(confchange.restore(r.tracker, log.last_index(), conf_state), conf_state)\n",
        "",
        "A member takes the state from a snapshot but keeps its old configuration.",
        "§7",
    ),
    Mutation(
        "change-applied-over-a-newer-snapshot",
        "raft/raft.py",
        "        if self.superseded is not None:\n",
        "        if False:\n",
        "A change that was still being applied when a snapshot came changes the configuration of the snapshot.",
        "library: overlapping writes",
    ),
    Mutation(
        "lost-snapshot-taken-for-arrived",
        "raft/leader.py",
        "        progress.pending_snapshot = 0\n",
        "        pass\n",
        "A leader probes behind a snapshot that never arrived.",
        "library: report_snapshot",
    ),
    Mutation(
        "paused-for-ever-after-a-snapshot",
        "raft/leader.py",
        "    elif progress.match + 1 >= r.log.first_index():\n",
        "    elif False:\n",
        "A peer that has taken its snapshot gets no appends.",
        "§7",
    ),
)

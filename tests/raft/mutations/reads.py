"""Faults in linearizable reads."""

from __future__ import annotations

from typing import Final

from tests.raft.mutations.mutation import Mutation

READS: Final = (
    Mutation(
        "read-before-a-commit-in-the-term",
        "raft/leader.py",
        "elif not r.committed_in_term():",
        "elif False:",
        "A new leader answers reads before it knows what is committed.",
        "diss. §6.4",
    ),
    Mutation(
        "read-alone-before-a-commit-in-the-term",
        "raft/leader.py",
        "elif not r.committed_in_term():",
        "elif not r.tracker.is_singleton() and not r.committed_in_term():",
        "A leader alone in its group answers a read with a commit index from before its restart.",
        "diss. §6.4",
    ),
    Mutation(
        "waiting-reads-never-released",
        "raft/leader.py",
        "        release_reads(r)\n",
        "",
        "Reads that wait for the first commit of a term are never answered.",
        "diss. §6.4",
    ),
    Mutation(
        "read-without-a-round",
        "raft/leader.py",
        "if alone or r.read_only.option == ReadOnlyOption.LEASE_BASED:",
        "if True:",
        "A leader answers reads without making sure that it still leads.",
        "§8, diss. §6.4",
    ),
    Mutation(
        "removed-leader-takes-the-last-voter-for-itself",
        "raft/leader.py",
        "alone = r.tracker.is_singleton() and r.id in r.tracker.config.voters.incoming",
        "alone = r.tracker.is_singleton()",
        "A leader that was removed answers reads without a round once a single voter is left, which is another.",
        "diss. §4.2.2, §6.4",
    ),
    Mutation(
        "read-confirmed-by-an-older-round",
        "raft/readonly.py",
        'max(self._acked.get(id, 0), int.from_bytes(context, "little"))',
        "self._confirmed + len(self._waiting)",
        "The answer to a heartbeat from before a read confirms it.",
        "diss. §6.4",
    ),
    Mutation(
        "read-confirmed-by-one-majority",
        "raft/readonly.py",
        "min(voters.committed(self._acked.get), self._confirmed",
        "min(JointConfig(voters.incoming).committed(self._acked.get), self._confirmed",
        "In a joint configuration the new majority alone confirms a read.",
        "diss. §4.3, §6.4",
    ),
    Mutation(
        "reads-outlive-the-leadership",
        "raft/raft.py",
        "        self.uncommitted_size = 0\n        self.read_only = ReadOnly(self.config.read_only_option)\n",
        "        self.uncommitted_size = 0\n",
        "A read that came in after the leader was deposed unknowingly is answered by its next leadership.",
        "diss. §6.4",
    ),
    Mutation(
        "read-answered-by-a-follower",
        "raft/follower.py",
        "    _pass_on(r, m)\n\n\ndef _pass_on(",
        "    r.read_states.append(ReadState(r.log.committed, m.entries[0].data))\n\n\ndef _pass_on(",
        "A follower answers a read from what it knows to be committed.",
        "diss. §6.4",
    ),
    Mutation(
        "lease-without-checking-the-quorum",
        "raft/config.py",
        "if self.read_only_option is ReadOnlyOption.LEASE_BASED and not self.check_quorum:",
        "if False:",
        "Reads by lease are allowed to a leader that does not notice that it is cut off.",
        "diss. §6.4.1",
    ),
    Mutation(
        "leader-forgotten-within-its-lease",
        "raft/follower.py",
        "if r.config.read_only_option == ReadOnlyOption.LEASE_BASED:",
        "if False:",
        "A follower can be made to elect another leader while the present one reads by its lease.",
        "diss. §6.4.1",
    ),
)

"""How one configuration may follow another: simple changes, entering and leaving a joint one, restoring a stored one.

Works on copies: a change that is refused leaves no trace. Knows nothing of how a change is agreed upon.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from raft.errors import ConfChangeError
from raft.messages import (
    NONE,
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
)
from raft.progress import Progress
from raft.tracker import Configuration, Tracker


def as_v2(change: ConfChange | ConfChangeV2) -> ConfChangeV2:
    """The change as a ConfChangeV2 with the same effect."""
    if isinstance(change, ConfChangeV2):
        return change
    return ConfChangeV2(changes=(ConfChangeSingle(change.type, change.node_id),), context=change.context)


def leaves_joint(change: ConfChangeV2) -> bool:
    """Whether the change asks to leave the joint configuration."""
    return change.transition == ConfChangeTransition.AUTO and not change.changes


def enters_joint(change: ConfChangeV2) -> bool:
    """Whether the change needs a joint configuration: several members at once, or an explicit wish."""
    return change.transition != ConfChangeTransition.AUTO or len(change.changes) > 1


def wants_auto_leave(change: ConfChangeV2) -> bool:
    """Whether a change that enters a joint configuration also has the leader leave it."""
    return change.transition != ConfChangeTransition.JOINT_EXPLICIT


@dataclass(slots=True)
class Proposed:
    """A configuration that may become active, with the progress of its members."""

    config: Configuration
    progress: dict[int, Progress]


class Changer:
    """Computes what a change makes of the tracker's configuration.

    last_index: the last index of the log; a new member is first probed there, since it most likely needs either a
    snapshot or nothing.
    """

    def __init__(self, tracker: Tracker, last_index: int) -> None:
        self._tracker = tracker
        self._last_index = last_index

    def change(self, change: ConfChangeV2) -> Proposed:
        """Carry out `change` the way it asks for. Raises ConfChangeError."""
        if leaves_joint(change):
            return self.leave_joint()
        if enters_joint(change):
            return self.enter_joint(change.changes, auto_leave=wants_auto_leave(change))
        return self.simple(change.changes)

    def simple(self, changes: Sequence[ConfChangeSingle]) -> Proposed:
        """Change at most one voter without a joint configuration. Raises ConfChangeError."""
        proposed = self._copy()
        if proposed.config.voters.is_joint():
            raise ConfChangeError("can't apply simple config change in joint config")
        self._apply(proposed, changes)
        before = self._tracker.config.voters.incoming
        if len(before ^ proposed.config.voters.incoming) > 1:
            raise ConfChangeError("more than one voter changed without entering joint config")
        return _checked(proposed)

    def enter_joint(self, changes: Sequence[ConfChangeSingle], *, auto_leave: bool) -> Proposed:
        """Make the present voters the outgoing ones and the changed ones the incoming. Raises ConfChangeError."""
        proposed = self._copy()
        config = proposed.config
        if config.voters.is_joint():
            raise ConfChangeError("config is already joint")
        if not config.voters.incoming:
            raise ConfChangeError("can't make a zero-voter config joint")
        config.voters.outgoing = set(config.voters.incoming)
        self._apply(proposed, changes)
        config.auto_leave = auto_leave
        return _checked(proposed)

    def leave_joint(self) -> Proposed:
        """Drop the outgoing voters, demoting those that were to become learners. Raises ConfChangeError."""
        proposed = self._copy()
        config, progress = proposed.config, proposed.progress
        if not config.voters.is_joint():
            raise ConfChangeError("can't leave a non-joint config")
        for id in config.learners_next:
            config.learners.add(id)
            progress[id].is_learner = True
        config.learners_next = set()
        for id in config.voters.outgoing:
            if id not in config.voters.incoming and id not in config.learners:
                progress.pop(id, None)
        config.voters.outgoing = set()
        config.auto_leave = False
        return _checked(proposed)

    def _copy(self) -> Proposed:
        tracker = self._tracker
        # The windows are shared with the copies: a member that stays keeps what is under way to it.
        progress = {id: replace(current) for id, current in tracker.progress.items()}
        return _checked(Proposed(tracker.config.copy(), progress))

    def _apply(self, proposed: Proposed, changes: Iterable[ConfChangeSingle]) -> None:
        for change in changes:
            # The id is cleared by an owner that turns a change into one without effect.
            if change.node_id == NONE:
                continue
            if change.type == ConfChangeType.ADD_NODE:
                self._make_voter(proposed, change.node_id)
            elif change.type == ConfChangeType.ADD_LEARNER_NODE:
                self._make_learner(proposed, change.node_id)
            elif change.type == ConfChangeType.REMOVE_NODE:
                _remove(proposed, change.node_id)
            elif change.type != ConfChangeType.UPDATE_NODE:
                raise ConfChangeError(f"unexpected conf type {int(change.type)}")
        if not proposed.config.voters.incoming:
            raise ConfChangeError("removed all voters")

    def _make_voter(self, proposed: Proposed, id: int) -> None:
        config = proposed.config
        progress = proposed.progress.get(id)
        if progress is None:
            progress = proposed.progress[id] = self._new_progress()
        progress.is_learner = False
        config.learners.discard(id)
        config.learners_next.discard(id)
        config.voters.incoming.add(id)

    def _make_learner(self, proposed: Proposed, id: int) -> None:
        config = proposed.config
        progress = proposed.progress.get(id)
        if progress is None:
            progress = self._new_progress()
        elif progress.is_learner:
            return
        _remove(proposed, id)
        proposed.progress[id] = progress
        # A voter of the outgoing set goes on voting until the joint configuration is left. Marking it as a learner
        # now would keep it out of half of the quorum it still belongs to.
        if id in config.voters.outgoing:
            config.learners_next.add(id)
        else:
            progress.is_learner = True
            config.learners.add(id)

    def _new_progress(self) -> Progress:
        # Counting a newcomer as heard from keeps a leader that checks its quorum from stepping down over it.
        return Progress(self._tracker.new_inflights(), next=max(self._last_index, 1), recent_active=True)


def _remove(proposed: Proposed, id: int) -> None:
    config = proposed.config
    if id not in proposed.progress:
        return
    config.voters.incoming.discard(id)
    config.learners.discard(id)
    config.learners_next.discard(id)
    # Still a voter of the outgoing set: it must be replicated to.
    if id not in config.voters.outgoing:
        del proposed.progress[id]


def _checked(proposed: Proposed) -> Proposed:
    """Raise ConfChangeError if configuration and progress contradict each other."""
    config, progress = proposed.config, proposed.progress
    for id in sorted(config.voters.ids() | config.learners | config.learners_next):
        if id not in progress:
            raise ConfChangeError(f"no progress for {id}")
    for id in sorted(config.learners_next):
        if id not in config.voters.outgoing:
            raise ConfChangeError(f"{id} is in LearnersNext, but not Voters[1]")
        if progress[id].is_learner:
            raise ConfChangeError(f"{id} is in LearnersNext, but is already marked as learner")
    for id in sorted(config.learners):
        if id in config.voters.outgoing:
            raise ConfChangeError(f"{id} is in Learners and Voters[1]")
        if id in config.voters.incoming:
            raise ConfChangeError(f"{id} is in Learners and Voters[0]")
        if not progress[id].is_learner:
            raise ConfChangeError(f"{id} is in Learners, but is not marked as learner")
    if not config.voters.is_joint():
        if config.learners_next:
            raise ConfChangeError("cfg.LearnersNext must be nil when not joint")
        if config.auto_leave:
            raise ConfChangeError("AutoLeave must be false when not joint")
    return proposed


def restore(tracker: Tracker, last_index: int, conf_state: ConfState) -> Proposed:
    """The configuration that `conf_state` stores, built through the same changes that lead there.

    tracker: an empty one, for its limits. Raises ConfChangeError if no sequence of changes leads there.
    """
    scratch = Tracker(tracker.max_inflight, tracker.max_inflight_bytes)
    added = [ConfChangeSingle(ConfChangeType.ADD_NODE, id) for id in conf_state.voters]
    added += [ConfChangeSingle(ConfChangeType.ADD_LEARNER_NODE, id) for id in conf_state.learners]
    added += [ConfChangeSingle(ConfChangeType.ADD_LEARNER_NODE, id) for id in conf_state.learners_next]
    outgoing = [ConfChangeSingle(ConfChangeType.ADD_NODE, id) for id in conf_state.voters_outgoing]

    for change in outgoing or added:
        proposed = Changer(scratch, last_index).simple([change])
        scratch.switch_to(proposed.config, proposed.progress)
    if outgoing:
        # The outgoing voters are all removed and those that stay added again, so that the incoming set is exact.
        removed = [ConfChangeSingle(ConfChangeType.REMOVE_NODE, id) for id in conf_state.voters_outgoing]
        proposed = Changer(scratch, last_index).enter_joint(removed + added, auto_leave=conf_state.auto_leave)
        scratch.switch_to(proposed.config, proposed.progress)
    return Proposed(scratch.config, scratch.progress)

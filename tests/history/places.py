"""Between which revisions a call must have happened that has none of its own, by the times of those that have one."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from tests.history.model import Call
from tests.history.plan import Plan, is_serializable


class Places:
    """The windows of one history."""

    def __init__(self, plan: Plan) -> None:
        shown = [(call, revision) for revision, call in plan.writers.items()]
        shown += [
            (call, revision)
            for revision, calls in plan.readers.items()
            for call in calls
            if not is_serializable(call.op)
        ]
        self._ends: list[int] = []
        self._lowest: list[int] = []
        for call, revision in sorted(shown, key=lambda item: item[0].end):
            self._ends.append(call.end)
            self._lowest.append(max(revision, self._lowest[-1] if self._lowest else 1))
        self._starts: list[int] = []
        self._highest: list[int] = []
        highest = plan.top
        writers = {id(call) for call in plan.writers.values()}
        for call, revision in sorted(shown, key=lambda item: -item[0].start):
            # What began later cannot have been before: a writer's own revision was not there yet.
            highest = min(highest, revision - (id(call) in writers))
            self._starts.append(call.start)
            self._highest.append(highest)
        self._starts.reverse()
        self._highest.reverse()
        self._top = plan.top

    def window(self, call: Call) -> tuple[int, int]:
        """The lowest and the highest revision at which it can have happened."""
        before = bisect_left(self._ends, call.start)
        after = bisect_right(self._starts, call.end)
        return (
            self._lowest[before - 1] if before else 1,
            self._highest[after] if after < len(self._highest) else self._top,
        )

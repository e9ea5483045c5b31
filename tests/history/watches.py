"""Was each watch told everything, once, whole and in order?

What it should have been told comes from the order of all calls that the search found; without one (a search that gave
up, a history with unrecorded revisions) from what is known for certain.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

from tests.history.facts import covered
from tests.history.linear import Timeline
from tests.history.model import Compact, Event, KeyValue, Watch, WatchResponse, WatchResumed
from tests.history.plan import Plan
from tests.history.report import Violation
from tests.history.store import Writes, same, show, within


@dataclass(slots=True)
class Truth:
    """What is known of each revision. `whole`: all that it wrote is in `writes`, not only what somebody saw."""

    plan: Plan
    timeline: Timeline | None

    def writes(self, revision: int) -> Writes:
        if self.timeline is not None and revision < len(self.timeline.writes):
            return self.timeline.writes[revision]
        return self.plan.facts.at(revision)

    def whole(self, revision: int) -> bool:
        return self.timeline is not None and revision not in self.plan.unrecorded

    def before(self, key: bytes, revision: int) -> tuple[KeyValue | None, bool]:
        """A key just before a revision, and whether that is certain."""
        if self.timeline is None:
            return None, False
        store = self.timeline.store
        past = store.past.get(key, [])
        earlier = bisect_left(past, revision, key=lambda change: change[0])
        last = past[earlier - 1][0] if earlier else 1
        if any(last < opened < revision for opened in self.plan.unrecorded):
            return None, False
        return store.at(key, revision - 1), True


def check_watch(watch: Watch, truth: Truth) -> Iterator[Violation]:
    """Everything that is wrong with one watch, in the order in which it was told."""
    faults = [*_sequence(watch), *_canceled(watch, truth.plan)]
    yield from faults
    if faults:
        # A broken sequence makes all that follows look missing or repeated.
        return
    told: dict[int, dict[bytes, Event]] = {}
    for entry in watch.log:
        if isinstance(entry, WatchResponse):
            for event in entry.events:
                told.setdefault(event.kv.mod_revision, {})[event.kv.key] = event
                yield from _event(watch, event, entry.at, truth)
    for cover in _stretches(watch):
        for revision in range(cover[0], cover[1] + 1):
            yield from _missing(watch, revision, told.get(revision, {}), truth)


def _stretches(watch: Watch) -> list[tuple[int, int]]:
    """The revisions that were told in full, whatever kinds of events are left out."""
    plain = Watch(watch.id, watch.client, watch.key, watch.end, watch.start_revision, log=watch.log)
    return [(cover.first, cover.last) for cover in covered(plain)]


def _sequence(watch: Watch) -> Iterator[Violation]:
    """Order, duplicates, split revisions, and what a response says of itself."""
    last = watch.start_revision - 1 if watch.start_revision else 0
    told = 0
    ever: set[tuple[int, bytes]] = set()
    split = False
    lost = 0
    for entry in watch.log:
        if isinstance(entry, WatchResumed):
            # Asking again from an earlier revision may repeat what was told; that is the client's own doing.
            last = told = entry.start_revision - 1
            ever, split, lost = set(), False, 0
            continue
        if entry.compact_revision:
            lost = entry.compact_revision
            if last + 1 >= lost and told:
                yield _fault(watch, "watch lost for nothing", f"canceled as compacted at revision {lost}, after {last}")
        if entry.created and not watch.start_revision:
            last = max(last, entry.revision)
        for event in entry.events:
            revision = event.kv.mod_revision
            if lost or revision > entry.revision:
                yield _fault(
                    watch, "watch order", f"told of revision {revision} by a response of revision {entry.revision}"
                )
                return
            mark = (revision, event.kv.key)
            if mark in ever:
                yield _fault(watch, "repeated event", f"told of revision {revision} of {event.kv.key!r} twice")
                return
            if revision <= last and not (revision == told and split):
                kind = "split revision" if revision == told and not split else "watch order"
                yield _fault(watch, kind, f"told of revision {revision} after revision {last}")
                return
            told, split = revision, True
            ever.add(mark)
            last = max(last, told)
        if entry.events:
            split = entry.fragment and watch.fragment
        elif not entry.created and not entry.canceled:
            last = max(last, entry.revision)


def _canceled(watch: Watch, plan: Plan) -> Iterator[Violation]:
    """Cancellations by a compaction that no call had asked for."""
    if plan.partial:
        return
    for entry in watch.log:
        if not (isinstance(entry, WatchResponse) and entry.compact_revision):
            continue
        if entry.compact_revision > _compacted(plan, entry.at):
            text = f"canceled as compacted at revision {entry.compact_revision}, and no call had asked for that"
            yield _fault(watch, "watch lost for nothing", text)


def _compacted(plan: Plan, moment: int) -> int:
    """The highest revision that can have been compacted by a moment."""
    asked = (call.op.revision for call in plan.compactions if call.start <= moment and isinstance(call.op, Compact))
    return max(asked, default=0)


def _event(watch: Watch, event: Event, moment: int, truth: Truth) -> Iterator[Violation]:
    """Whether what an event, told at a moment, says is what happened."""
    key, revision = event.kv.key, event.kv.mod_revision
    if not within(key, watch.key, watch.end):
        yield _fault(watch, "foreign event", f"told of {key!r}, which it does not watch")
        return
    if watch.no_delete if event.deleted else watch.no_put:
        yield _fault(
            watch, "foreign event", f"told of a kind of event that it asked not to be told, at {revision}", revision
        )
        return
    writes = truth.writes(revision)
    if key not in writes:
        if truth.whole(revision):
            yield _fault(
                watch, "event of nothing", f"told that revision {revision} wrote {key!r}, which it did not", revision
            )
        return
    made = writes[key]
    if (made is None) != event.deleted or (made is not None and not same(made, event.kv)):
        yield _fault(
            watch, "wrong event", f"told that {key!r} became {_told(event)}, but it became {show(made)}", revision
        )
        return
    old, certain = truth.before(key, revision)
    wrong = certain and watch.prev_kv and not same(old, event.prev_kv)
    # A compaction at this revision, or a later one, forgets what was there before it.
    if wrong and not (event.prev_kv is None and _compacted(truth.plan, moment) >= revision):
        text = f"told that {key!r} was {show(event.prev_kv)} before revision {revision}, but it was {show(old)}"
        yield _fault(watch, "wrong prev_kv", text, revision)
    if event.prev_kv is not None and not watch.prev_kv:
        yield _fault(
            watch, "wrong prev_kv", f"told what {key!r} was before revision {revision}, and had not asked", revision
        )


def _told(event: Event) -> str:
    return "deleted" if event.deleted else show(event.kv)


def _missing(watch: Watch, revision: int, told: dict[bytes, Event], truth: Truth) -> Iterator[Violation]:
    """What a watch should have been told of a revision that it has passed."""
    for key, kv in truth.writes(revision).items():
        if key in told or not within(key, watch.key, watch.end):
            continue
        if watch.no_delete if kv is None else watch.no_put:
            continue
        kind = "torn revision" if told else "skipped event"
        what = "deleted" if kv is None else f"made {show(kv)}"
        author = truth.plan.writers.get(revision)
        who = f" by call {author.id}" if author else ""
        calls = (author.id,) if author else ()
        text = f"not told of revision {revision}, which {what} {key!r}{who}, though it was told of later ones"
        yield Violation(kind, f"watch {watch.id} of {watch.client}: {text}", calls, watch.id, revision)


def _fault(watch: Watch, kind: str, text: str, revision: int = 0) -> Violation:
    return Violation(kind, f"watch {watch.id} of {watch.client}: {text}", (), watch.id, revision)

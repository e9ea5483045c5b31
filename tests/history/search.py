"""The search of Wing and Gong, with Lowe's memory of states: is there any order of calls that a model allows?

At each point any call may be next that began before the first of the others ended. What was tried once, the same calls
done and the same state, is not tried again. Knows nothing of stores: a model is a function from a state and a call to
the state after it.

See Wing and Gong, "Testing and Verifying Concurrent Objects" (1993); Lowe, "Testing for Linearizability" (2017).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

State = TypeVar("State", bound=Hashable)
Thing = TypeVar("Thing")


@dataclass(slots=True)
class Timed(Generic[Thing]):
    """Something that happens at one moment from start to end. Without `must` it may as well never happen.

    pure: it never changes the state, whatever that is.
    """

    start: int
    end: int
    thing: Thing
    must: bool = True
    pure: bool = False


@dataclass(slots=True)
class Order(Generic[Thing]):
    """found: None if the budget ran out. stuck: what could not be placed, where the search got furthest."""

    found: bool | None
    stuck: Thing | None = None


@dataclass(slots=True)
class _Frame(Generic[State]):
    first: int
    done: int
    maybe: int
    state: State
    choices: Iterator[tuple[bool, int, State]]


class Search(Generic[State, Thing]):
    """One search. step(state, thing) gives the state after it, or None if it cannot happen then."""

    def __init__(
        self, things: Sequence[Timed[Thing]], step: Callable[[State, Thing], State | None], budget: int
    ) -> None:
        self._musts = sorted((item for item in things if item.must), key=lambda item: (item.start, item.end))
        self._maybes = sorted((item for item in things if not item.must), key=lambda item: item.start)
        self._step = step
        self._budget = budget

    def run(self, initial: State) -> Order[Thing]:
        """Find an order that begins in a state."""
        seen: set[tuple[int, int, int, State]] = set()
        deepest = -1
        stuck: Thing | None = None
        stack = [_Frame(0, 0, 0, initial, self._choices(0, 0, 0, initial))]
        while stack:
            frame = stack[-1]
            if frame.first == len(self._musts):
                return Order(True)
            choice = next(frame.choices, None)
            if choice is None:
                stack.pop()
                continue
            following = self._following(frame, choice)
            if following in seen:
                continue
            seen.add(following)
            self._budget -= 1
            if self._budget < 0:
                return Order(None)
            first, done, maybe, state = following
            if first + done.bit_count() > deepest and first < len(self._musts):
                deepest = first + done.bit_count()
                stuck = self._earliest(first, done)
            stack.append(_Frame(first, done, maybe, state, self._choices(first, done, maybe, state)))
        if stuck is None and self._musts:
            stuck = self._earliest(0, 0)
        return Order(False, stuck)

    def _following(self, frame: _Frame[State], choice: tuple[bool, int, State]) -> tuple[int, int, int, State]:
        must, index, state = choice
        if not must:
            return frame.first, frame.done, frame.maybe | 1 << index, state
        # `done` has a bit for each call from `first` on; the calls before `first` are all done.
        first, done = frame.first, frame.done | 1 << (index - frame.first)
        while done & 1:
            first, done = first + 1, done >> 1
        return first, done, frame.maybe, state

    def _open(self, first: int, done: int) -> tuple[list[int], int]:
        """The calls that may be next, and the moment by which the next must have begun."""
        latest = 1 << 62
        found = []
        for index in range(first, len(self._musts)):
            item = self._musts[index]
            if item.start > latest:
                break
            if not done >> (index - first) & 1:
                latest = min(latest, item.end)
                found.append(index)
        return [index for index in found if self._musts[index].start <= latest], latest

    def _earliest(self, first: int, done: int) -> Thing:
        found, _ = self._open(first, done)
        return self._musts[min(found, key=lambda index: self._musts[index].end)].thing

    def _choices(self, first: int, done: int, maybe: int, state: State) -> Iterator[tuple[bool, int, State]]:
        found, latest = self._open(first, done)
        possible = []
        for index in found:
            after = self._step(state, self._musts[index].thing)
            if after is None:
                continue
            if self._musts[index].pure:
                # Nothing minds it: if there is an order, there is one with it here.
                yield True, index, after
                return
            possible.append((True, index, after))
        yield from possible
        for index, item in enumerate(self._maybes):
            if item.start > latest:
                break
            if not maybe >> index & 1:
                after = self._step(state, item.thing)
                if after is not None and after != state:
                    yield False, index, after

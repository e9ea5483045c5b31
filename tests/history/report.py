"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True, frozen=True)
class Violation:
    """One thing that cannot have been.

    kind: a few words that name the sort of fault. calls: ids of the calls that contradict each other, the impossible
    one first. watch: the watch it is about. revision: the one it is about, 0 if it is about none in particular.
    """

    kind: str
    message: str
    calls: tuple[int, ...] = ()
    watch: int | None = None
    revision: int = 0

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


@dataclass(slots=True)
class Report:
    """`undecided` has the questions that a search gave up on; they are neither faults nor a pass."""

    violations: list[Violation] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    calls: int = 0
    events: int = 0

    @property
    def ok(self) -> bool:
        return not self.violations and not self.undecided

    def summary(self) -> str:
        """A line or more for people and for an assertion's message."""
        head = f"{self.calls:,} calls and {self.events:,} watch events"
        if self.ok:
            return f"{head}: no fault found"
        lines = [f"{head}: {len(self.violations)} faults" + (", not all decided" if self.undecided else "")]
        return "\n".join(lines + [f"  {item}" for item in (*map(str, self.violations[:20]), *self.undecided)])


@dataclass(slots=True, frozen=True)
class CheckOptions:
    """clock_error: how much faster a member's clock may run than the recorder's, as a fraction of a lease's time.

    budget: how many revisions a search may take back, or steps it may try, before it says "undecided".
    """

    clock_error: float = 0.01
    budget: int = 300_000

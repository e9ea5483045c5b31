"""What a run has measured, and how it is printed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.limits.bystander import Bystander
from tests.limits.crowd import Standing
from tests.limits.member import MIB, MemoryWatch


@dataclass(slots=True)
class Report:
    """Memory in bytes, of the member and its writers together. notes: more lines, as name and text.

    peak_alone: of the member's own process. processes: how many more it had in the end than before.
    """

    title: str
    before: int = 0
    peak: int = 0
    during: int = 0
    after: int = 0
    peak_alone: int = 0
    served: int = 0
    p50: float = 0.0
    p99: float = 0.0
    wrong: int = 0
    bystander_refused: Counter[str] = field(default_factory=Counter)
    standing: Standing = field(default_factory=Standing)
    processes: int = 0
    notes: list[tuple[str, str]] = field(default_factory=list)

    def take(self, memory: MemoryWatch, bystander: Bystander) -> None:
        """Note what the two have seen so far."""
        self.before, self.peak, self.after = memory.before, memory.peak, memory.now()
        self.peak_alone = memory.peak_alone
        self.served, self.wrong = bystander.served, bystander.wrong
        self.p50, self.p99 = bystander.latency(0.5), bystander.latency(0.99)
        self.bystander_refused = bystander.refused

    def lines(self) -> list[str]:
        """As printed."""
        refused = ", ".join(f"{count} x {what}" for what, count in self.bystander_refused.most_common(5)) or "none"
        rows = [
            ("anonymous memory", f"before {_mib(self.before)}, peak {_mib(self.peak)}, during {_mib(self.during)}, "),
            ("", f"after {_mib(self.after)}; the member's own process at its peak {_mib(self.peak_alone)}"),
            (
                "bystander",
                f"{self.served} served, p50 {self.p50 * 1e3:.1f} ms, p99 {self.p99 * 1e3:.1f} ms, {self.wrong} wrong",
            ),
            ("bystander refused", refused),
            *self.notes,
        ]
        return [self.title, *(f"  {name:<18} {text}" for name, text in rows)]


def _mib(size: int) -> str:
    return f"{size / MIB:.1f} MiB"

"""A run in a table: what each fault cost, and what held."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from statistics import median

from tests.chaos.nemesis import Damage, Nemesis
from tests.chaos.verdict import Verdict
from tests.history.model import Outcome


def damage_table(damages: Iterable[Damage]) -> str:
    """Times without an answered write, by fault; of faults that struck together each gets what all did."""
    by_fault: dict[str, list[Damage]] = defaultdict(list)
    for damage in damages:
        for fault in damage.faults:
            by_fault[fault].append(damage)
    lines = [
        f"{'':16}{'':>5}  {'no write for (s)':>18}  {'after healing (s)':>18}  {'all serve after (s)':>20}",
        f"{'fault':16}{'n':>5}  {'median':>9}{'worst':>9}  {'median':>9}{'worst':>9}  {'median':>10}{'worst':>10}",
    ]
    for fault, found in sorted(by_fault.items()):
        columns = (
            [damage.silent for damage in found],
            [damage.silent_after for damage in found],
            [damage.recovered for damage in found],
        )
        numbers = "  ".join(f"{median(column):9.2f}{max(column):9.2f}" for column in columns)
        lines.append(f"{fault:16}{len(found):5}  {numbers}")
    return "\n".join(lines)


def summary(nemesis: Nemesis, verdict: Verdict, struck: float, seconds: float) -> str:
    """All that is to be said of a run. struck: seconds that faults struck; seconds: that the whole run took."""
    calls = nemesis.history.calls
    outcomes = Counter(call.outcome for call in calls)
    kinds = Counter(type(call.op).__name__ for call in calls)
    events = sum(len(getattr(told, "events", ())) for watch in nemesis.history.watches for told in watch.log)
    counts = ", ".join(f"{outcomes[outcome]} {outcome.value}" for outcome in Outcome)
    lines = [
        "",
        damage_table(nemesis.damages),
        "",
        f"{struck:.0f} s of {len(nemesis.damages)} strikes, {seconds:.0f} s in all",
        f"{len(calls)} calls ({len(calls) / max(struck, 1):.0f}/s): {counts}",
        "  " + ", ".join(f"{name} {count}" for name, count in kinds.most_common()),
        f"{len(nemesis.history.watches)} watches were told {events} events",
    ]
    lines += [f"VIOLATED: {violation}" for violation in verdict.violations]
    lines += [f"UNDECIDED: {undecided}" for undecided in verdict.undecided]
    lines.append("everything held" if verdict.ok else "FAILED")
    return "\n".join(lines)

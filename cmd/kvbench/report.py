"""What a load came to, as text for people and as values for JSON."""

from kvbench.latency import LatencySummary
from kvbench.load import Kind, Load, Result

BAR_COLUMNS = 40


def describe(load: Load) -> str:
    """A load in one line."""
    if load.kind is Kind.LEASE:
        what = f"{load.leases:,} leases in {load.lease_streams} streams"
    else:
        what = f"{load.connections} connections x {load.streams} streams, {load.keys:,} keys"
    if load.kind is Kind.WATCH:
        what += f", {load.watchers:,} watchers in {load.watch_streams} streams"
    if load.kind in (Kind.PUT, Kind.TXN, Kind.MIXED, Kind.WATCH):
        what += f", values of {load.value_size:,} bytes"
    return f"{load.kind.value}: {what}"


def to_json(load: Load, result: Result) -> dict[str, object]:
    """Everything that the summary says; latencies in milliseconds."""
    report: dict[str, object] = {
        "load": {
            "kind": load.kind.value,
            "endpoints": list(load.endpoints),
            "connections": load.connections,
            "streams": load.streams,
            "keys": load.keys,
            "key_size": load.key_size,
            "value_size": load.value_size,
            "rate": load.rate,
            "seed": load.seed,
        },
        "operations": result.operations,
        "seconds": result.elapsed,
        "operations_per_second": result.rate,
        "response_bytes": result.response_bytes,
        "longest_gap_seconds": result.longest_gap,
        "latency_ms": result.latencies.summary().to_json() if result.operations else None,
        "errors": dict(result.errors),
        "generator": {"processes": result.processes, "cpu_share": result.cpu_share},
    }
    if load.kind is Kind.WATCH:
        delays = result.event_latencies
        report["events"] = result.events
        report["events_per_second"] = result.event_rate
        report["event_latency_ms"] = delays.summary().to_json() if delays.counts else None
    return report


def to_text(load: Load, result: Result) -> str:
    """The summary that is printed."""
    lines = [
        describe(load),
        f"  {result.operations:,} answered in {result.elapsed:.2f} s: {result.rate:,.1f} a second",
    ]
    if result.operations:
        lines += _latency_lines("latency", result.latencies.summary())
    if load.kind is Kind.WATCH:
        lines.append(f"  {result.events:,} events delivered: {result.event_rate:,.1f} a second")
        if result.event_latencies.counts:
            lines += _latency_lines("from put to event", result.event_latencies.summary())
    if result.response_bytes:
        lines.append(f"  {result.response_bytes / 1e6 / max(result.elapsed, 1e-9):,.1f} MB of answers a second")
    lines.append("  errors: none" if not result.errors else "  errors:")
    lines += [f"    {count:>10,}  {text}" for text, count in result.errors.most_common()]
    plural = "es" if result.processes > 1 else ""
    lines.append(
        f"  generator: {result.cpu_share:.0%} of a processor for each of {result.processes} process{plural}"
        + (" - it was the limit, not the server; give it more --processes" if result.cpu_share > 0.9 else "")
    )
    return "\n".join(lines)


def _latency_lines(title: str, summary: LatencySummary) -> list[str]:
    named = [("min", summary.minimum), ("mean", summary.mean)]
    named += [(f"p{quantile * 100:g}", value) for quantile, value in summary.quantiles.items()]
    named.append(("max", summary.maximum))
    most = max(count for _, count in summary.buckets)
    lines = [f"  {title}, ms: " + "  ".join(f"{name} {value:.3f}" for name, value in named)]
    for bound, count in summary.buckets:
        bar = "#" * round(count / most * BAR_COLUMNS)
        lines.append(f"    <= {bound:>10.3f}  {count:>10,}  {bar}".rstrip())
    return lines

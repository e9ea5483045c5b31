"""A history as one HTML page: a lane for each client, time to the right, the impossible operation in red.

Self-contained: no scripts, no other files. Meant for the few calls of a minimal history; time is not to scale, since
what matters is only what began before what had ended.
"""

from __future__ import annotations

from bisect import bisect_left
from html import escape

from tests.history import describe
from tests.history.model import Call, History, Outcome, WatchResponse
from tests.history.report import Violation

_LANE = 62
_STEP = 130
_LEFT = 130
_STYLE = """
body { font: 14px system-ui, sans-serif; margin: 2em; color: #222; background: #fff }
h1 { font-size: 1.2em } .fault { color: #b00020; font-weight: 600 }
.scroll { overflow-x: auto; border: 1px solid #ddd }
svg text { font: 12px ui-monospace, monospace; fill: #222 }
.lane { stroke: #ddd } .call rect { fill: #cfe3ff; stroke: #4a78b5 } .write rect { fill: #d6f0d0; stroke: #4b8a3f }
.unknown rect { fill: #eee; stroke: #999; stroke-dasharray: 4 3 } .refused rect { fill: #f4e6c8; stroke: #a9812b }
.bad rect, .bad circle { fill: #ffc9cf; stroke: #b00020; stroke-width: 2.5 } .bad text { font-weight: 700 }
.party rect { stroke-width: 2.5 } circle { fill: #e7dcf7; stroke: #7a54b0 }
table { border-collapse: collapse; margin-top: 1.5em }
td, th { border: 1px solid #ddd; padding: .3em .6em; text-align: left }
td { font: 12px ui-monospace, monospace } tr.bad td { background: #ffe5e8 }
"""


def picture(history: History, violation: Violation) -> str:
    """The page. Calls named by the violation are marked: the first as impossible, the others by a thick edge."""
    calls = sorted(history.calls, key=lambda call: call.start)
    notes = [
        (f"{watch.client} (watch {watch.id})", watch.id, entry)
        for watch in history.watches
        for entry in watch.log
        if isinstance(entry, WatchResponse)
    ]
    moments = sorted(
        {call.start for call in calls}
        | {call.end for call in calls if call.outcome is not Outcome.UNKNOWN}
        | {entry.at for _, _, entry in notes}
    )
    lanes = list(dict.fromkeys([call.client for call in calls] + [lane for lane, _, _ in notes]))
    right = _LEFT + (len(moments) + 1) * _STEP
    shapes = []
    for index, lane in enumerate(lanes):
        y = (index + 1) * _LANE
        shapes.append(f'<line class="lane" x1="{_LEFT}" y1="{y}" x2="{right}" y2="{y}"/>')
        shapes.append(f'<text x="8" y="{y + 4}">{escape(lane)}</text>')
    for call in calls:
        shapes.append(_bar(call, moments, lanes.index(call.client), right, violation))
    for lane, watch, entry in notes:
        shapes.append(_dot(entry, moments, lanes.index(lane), violation.watch == watch))
    height = (len(lanes) + 1) * _LANE
    rows = "".join(_row(call, violation) for call in calls) + "".join(_told(lane, entry) for lane, _, entry in notes)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/><title>{escape(violation.kind)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>This cannot have been</h1>"
        f'<p class="fault">{escape(str(violation))}</p>'
        f"<p>{len(calls)} calls; green ones write, blue ones read, dashed ones had no answer. "
        f"Time runs to the right, not to scale.</p>"
        f'<div class="scroll"><svg xmlns="http://www.w3.org/2000/svg" width="{right + 20}" height="{height}">'
        + "".join(shapes)
        + "</svg></div><table><tr><th>id</th><th>client</th><th>from, ms</th><th>to, ms</th>"
        + "<th>asked</th><th>answered</th></tr>"
        + rows
        + "</table></body></html>\n"
    )


def _classes(call: Call, violation: Violation) -> str:
    kind = {Outcome.UNKNOWN: "unknown", Outcome.REFUSED: "refused"}.get(call.outcome, "call")
    if kind == "call" and not describe.operation(call.op).startswith(("get", "serializable")):
        kind = "write"
    if violation.calls[:1] == (call.id,):
        return f"{kind} bad"
    return f"{kind} party" if call.id in violation.calls else kind


def _bar(call: Call, moments: list[int], lane: int, right: int, violation: Violation) -> str:
    left = _LEFT + bisect_left(moments, call.start) * _STEP
    end = right if call.outcome is Outcome.UNKNOWN else _LEFT + bisect_left(moments, call.end) * _STEP + 20
    y = (lane + 1) * _LANE
    revision = f" → {call.result.revision}" if call.result else ""
    title = f"call {call.id}: {describe.operation(call.op)}\n{describe.outcome(call)}"
    return (
        f'<g class="{_classes(call, violation)}"><title>{escape(title)}</title>'
        f'<rect x="{left}" y="{y - 22}" width="{max(end - left, 30)}" height="26" rx="4"/>'
        f'<text x="{left + 5}" y="{y - 5}">{escape(f"#{call.id} {describe.operation(call.op)}{revision}")}</text></g>'
    )


def _dot(entry: WatchResponse, moments: list[int], lane: int, bad: bool) -> str:
    x = _LEFT + bisect_left(moments, entry.at) * _STEP
    y = (lane + 1) * _LANE
    title = "\n".join(map(describe.event, entry.events)) or f"no events, revision {entry.revision}"
    return (
        f'<g class="{"bad" if bad else "told"}"><title>{escape(title)}</title><circle cx="{x}" cy="{y}" r="9"/>'
        f'<text x="{x + 12}" y="{y - 8}">{escape(title.splitlines()[0])}</text></g>'
    )


def _row(call: Call, violation: Violation) -> str:
    bad = ' class="bad"' if violation.calls[:1] == (call.id,) else ""
    end = "" if call.outcome is Outcome.UNKNOWN else f"{call.end / 1e6:.3f}"
    cells = (call.id, call.client, f"{call.start / 1e6:.3f}", end, describe.operation(call.op), describe.outcome(call))
    return f"<tr{bad}>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>"


def _told(lane: str, entry: WatchResponse) -> str:
    told = "; ".join(map(describe.event, entry.events)) or "created" * entry.created or "progress"
    cells = ("", lane, f"{entry.at / 1e6:.3f}", "", "", f"revision {entry.revision}: {told}")
    return "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>"

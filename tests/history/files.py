"""Histories as JSON lines: one call or watch a line, readable by people and by other languages.

Bytes are strings with one character a byte (latin-1); what has its default value is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import MISSING, fields
from enum import Enum
from pathlib import Path
from typing import Any

from tests.history import model
from tests.history.model import Call, History, Watch

_CLASSES: dict[str, type[Any]] = {
    cls.__name__: cls
    for cls in (
        model.KeyValue, model.Put, model.Range, model.Delete, model.Compare, model.Txn, model.Compact, model.Grant,
        model.Revoke, model.KeepAlive, model.TimeToLive, model.PutResult, model.RangeResult, model.DeleteResult,
        model.TxnResult, model.CompactResult, model.GrantResult, model.RevokeResult, model.KeepAliveResult,
        model.TimeToLiveResult, model.Call, model.Event, model.WatchResponse, model.WatchResumed, model.Watch,
    )
}  # fmt: skip
_BYTES = {"key", "end", "value", "operand"}
"""Fields that hold bytes where they are strings in JSON. A call's `end` is a number, and so stays one."""


class BadHistory(Exception):
    """A file that is not a history: which line, and why."""


def save(history: History, path: Path) -> None:
    """Write all of a history to a file, in the order of its ids."""
    with path.open("w", encoding="utf-8") as file:
        for place, revisions in (("anywhere", history.unrecorded), ("elsewhere", history.elsewhere)):
            if revisions:
                file.write(json.dumps({"type": "Unrecorded", "place": place, "revisions": revisions}) + "\n")
        for entry in (*history.calls, *history.watches):
            file.write(json.dumps(_plain(entry), ensure_ascii=True, separators=(",", ":")) + "\n")


def load(paths: Iterable[Path]) -> History:
    """Read one history from one or several files, each the part of it that one process recorded.

    Ids are given anew when there are several. Raises BadHistory, and OSError for what cannot be read.
    """
    paths = list(paths)
    history = History()
    unrecorded: dict[str, list[tuple[int, int]]] = {"anywhere": [], "elsewhere": []}
    for path in paths:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    data = json.loads(line)
                    if data["type"] == "Unrecorded":
                        unrecorded[data["place"]] += [(int(first), int(last)) for first, last in data["revisions"]]
                        continue
                    entry = _entry(data)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise BadHistory(f"{path}, line {number}: {error!r}") from error
                if isinstance(entry, Call):
                    history.calls.append(entry)
                else:
                    history.watches.append(entry)
    if len(paths) > 1:
        history.calls.sort(key=lambda call: call.start)
        for new, call in enumerate(history.calls):
            call.id = new
        for new, watch in enumerate(history.watches):
            watch.id = new
    history.unrecorded = tuple(unrecorded["anywhere"])
    history.elsewhere = tuple(unrecorded["elsewhere"])
    return history


def _entry(data: dict[str, Any]) -> Call | Watch:
    entry = _value(data)
    if not isinstance(entry, Call | Watch):
        raise TypeError(f"a line holds a Call or a Watch, not a {type(entry).__name__}")
    return entry


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if not hasattr(value, "__dataclass_fields__"):
        return value
    plain: dict[str, Any] = {"type": type(value).__name__}
    for column in fields(value):
        item = getattr(value, column.name)
        if column.default is MISSING or item != column.default:
            plain[column.name] = _plain(item)
    return plain


def _value(data: Any, name: str = "") -> Any:
    if isinstance(data, dict):
        cls = _CLASSES[data["type"]]
        values = {key: _value(item, key) for key, item in data.items() if key != "type"}
        if cls is Call:
            values["outcome"] = model.Outcome(values.get("outcome", "unknown"))
        return cls(**values)
    if isinstance(data, list):
        if name == "log":
            return [_value(item) for item in data]
        # The keys of a TimeToLiveResult are the only plain strings in a list.
        return tuple(item.encode("latin-1") if isinstance(item, str) else _value(item) for item in data)
    if isinstance(data, str) and name in _BYTES:
        return data.encode("latin-1")
    return data

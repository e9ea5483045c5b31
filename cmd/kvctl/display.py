"""Answers as text: which writer serves which output format.

A writer has one method per kind of answer, and returns the bytes to print. It decides nothing and calls nobody.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from kvctl.options import Settings
    from kvstore.client import results

KV_FORMATS = ("simple", "json", "fields")
SHORT_FORMATS = ("simple", "json")


@dataclass(slots=True, frozen=True)
class Health:
    """How an endpoint answered a read. `took` is seconds; `error` is empty for a healthy one."""

    endpoint: str
    took: float
    error: str

    @property
    def healthy(self) -> bool:
        return not self.error


class Writer(Protocol):
    """What a format can print. Commands do not ask a format for what it does not support."""

    def get(self, result: results.GetResult) -> bytes: ...
    def put(self, result: results.PutResult) -> bytes: ...
    def delete(self, result: results.DeleteResult) -> bytes: ...
    def txn(self, result: results.TxnResult) -> bytes: ...
    def watch(self, response: results.WatchResponse) -> bytes: ...
    def watch_canceled(self, header: results.Header, compact_revision: int) -> bytes: ...
    def granted(self, lease: results.Lease) -> bytes: ...
    def kept_alive(self, lease: results.Lease) -> bytes: ...
    def revoked(self, lease_id: int, result: results.HeaderOnly) -> bytes: ...
    def time_to_live(self, info: results.LeaseInfo, keys: bool) -> bytes: ...
    def leases(self, result: results.LeaseList) -> bytes: ...
    def members(self, result: results.MemberList) -> bytes: ...
    def member_added(self, result: results.MemberAdded) -> bytes: ...
    def member_changed(self, verb: str, member_id: int, result: results.MemberList) -> bytes: ...
    def health(self, results: list[Health]) -> bytes: ...
    def status(self, results: list[tuple[str, results.Status]]) -> bytes: ...
    def hash_kv(self, results: list[tuple[str, results.HashKV]]) -> bytes: ...
    def alarms(self, result: results.AlarmList) -> bytes: ...
    def leader_moved(self, leader: int, target: int, result: results.HeaderOnly) -> bytes: ...


def writer(settings: Settings) -> Writer:
    """The writer of the format that the flags name."""
    if settings.write_out == "json":
        from kvctl.write_json import JsonWriter

        return JsonWriter(settings.hex)
    if settings.write_out == "fields":
        from kvctl.write_fields import FieldsWriter

        return FieldsWriter(settings.hex)
    from kvctl.write_simple import SimpleWriter, TableWriter

    return TableWriter(settings.hex) if settings.write_out == "table" else SimpleWriter(settings.hex)


def show(output: bytes) -> None:
    """Print bytes as they are, at once."""
    sys.stdout.flush()
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()

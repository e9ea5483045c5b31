"""`alarm list|disarm`."""

from __future__ import annotations

import click

from kvctl import display
from kvctl.failure import bad_args
from kvctl.options import Group, Settings


@click.group(cls=Group, short_help="List and disarm alarms.")
def alarm() -> None:
    """List and disarm alarms: NOSPACE, when the store has grown over its quota, and CORRUPT."""


@alarm.command(
    "list",
    formats=display.KV_FORMATS,
    short_help="List all alarms.",
    epilog="Example: kvctl alarm list",
    options_metavar="",
)
@click.argument("words", metavar="", nargs=-1)
def list_alarms(settings: Settings, words: tuple[str, ...]) -> None:
    """List the alarms that are raised, and on which member."""
    if words:
        bad_args("alarm list command accepts no arguments")
    from kvctl import session

    display.show(display.writer(settings).alarms(session.call(settings, lambda client: client.maintenance.alarms())))


@alarm.command(
    formats=display.KV_FORMATS,
    short_help="Disarm all alarms.",
    epilog="Example: kvctl alarm disarm",
    options_metavar="",
)
@click.argument("words", metavar="", nargs=-1)
def disarm(settings: Settings, words: tuple[str, ...]) -> None:
    """Disarm all alarms and list them. After NOSPACE, free space first: compaction, then defrag."""
    if words:
        bad_args("alarm disarm command accepts no arguments")
    from kvctl import session

    result = session.call(settings, lambda client: client.maintenance.disarm_all())
    display.show(display.writer(settings).alarms(result))


COMMANDS = {"alarm": alarm}

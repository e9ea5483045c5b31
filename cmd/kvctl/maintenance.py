"""`defrag` and `move-leader`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from kvctl import display, gotext
from kvctl.failure import CommandFailed, Exit, bad_args
from kvctl.options import Command, Settings, cluster_option

if TYPE_CHECKING:
    from kvstore.client import Client
    from kvstore.client.results import HeaderOnly


@click.command(
    cls=Command,
    short_help="Give unused space back to the file system.",
    epilog="Example: kvctl defrag --cluster --command-timeout 60s",
    options_metavar="[options]",
)
@click.argument("words", metavar="", nargs=-1)
@cluster_option()
def defrag(settings: Settings, words: tuple[str, ...]) -> None:
    """Give the space that a store does not use back to the file system, one endpoint after the other.

    A member first frees what compactions have left to free, and answers more slowly meanwhile; a member of etcd serves
    nothing. With many gigabytes raise --command-timeout.
    """
    from kvctl import session
    from kvstore.client import errors

    addresses = session.endpoints_of(settings)

    async def defragment_all(client: Client) -> bool:
        failed = False
        for address in addresses:
            try:
                await client.maintenance.defragment(address)
                print(f"Finished defragmenting etcd member[{address}]", flush=True)
            except errors.ClientError as error:
                failed = True
                session.warn(settings, error, address)
                print(f"Failed to defragment etcd member[{address}] ({error})", file=sys.stderr)
        return failed

    if session.call(settings, defragment_all):
        raise CommandFailed(Exit.ERROR, "")


@click.command(
    cls=Command,
    formats=display.KV_FORMATS,
    short_help="Hand leadership to another member.",
    epilog="Example: kvctl move-leader 91bc3c398fb3c146",
    options_metavar="",
)
@click.argument("words", metavar="<transferee-member-id>", nargs=-1)
def move_leader(settings: Settings, words: tuple[str, ...]) -> None:
    """Hand leadership to the member with that id. One of the endpoints must be the present leader's."""
    if len(words) != 1:
        bad_args("move-leader command needs 1 argument")
    try:
        target = gotext.parse_int(words[0], base=16, signed=False)
    except ValueError as error:
        bad_args(str(error))
    from kvctl import session

    async def move(client: Client) -> tuple[int, HeaderOnly]:
        for address in settings.endpoints:
            status = await client.maintenance.status(address)
            if status.is_leader:
                return status.leader, await client.maintenance.move_leader(address, target)
        raise CommandFailed(Exit.BAD_ARGS, f"no leader endpoint given at [{' '.join(settings.endpoints)}]")

    leader, result = session.call(settings, move)
    display.show(display.writer(settings).leader_moved(leader, target, result))


COMMANDS = {"defrag": defrag, "move-leader": move_leader}

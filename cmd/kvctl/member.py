"""`member list|add|remove|update|promote`."""

from __future__ import annotations

import click

from kvctl import display, gotext
from kvctl.failure import bad_args
from kvctl.options import Group, Settings, flag


@click.group(cls=Group, short_help="List, add, change and remove members.")
def member() -> None:
    """List, add, change and remove members of the cluster."""


@member.command(
    "list", short_help="List the members.", epilog="Example: kvctl member list -w table", options_metavar="[options]"
)
@click.option("--consistency", default="l", metavar="l|s", help="linearizable (l), or serializable (s): maybe stale")
def list_members(settings: Settings, consistency: str) -> None:
    """List all members: id, status, name, peer addresses, client addresses, whether it is a learner."""
    from kvctl import session

    result = session.call(settings, lambda client: client.cluster.members(linearizable=consistency != "s"))
    display.show(display.writer(settings).members(result))


@member.command(
    formats=display.SHORT_FORMATS,
    short_help="Add a member.",
    epilog="Example: kvctl member add m4 --peer-urls=http://10.0.0.4:2380 --learner",
    options_metavar="[options]",
)
@click.argument("words", metavar="<memberName>", nargs=-1)
@click.option("--peer-urls", default="", metavar="URLS", help="where it listens for its peers, separated by commas")
@flag("--learner", help="without a vote until it is promoted")
def add(settings: Settings, words: tuple[str, ...], peer_urls: str, learner: bool) -> None:
    """Add a member to the cluster, and print the environment to start it with."""
    if not words:
        bad_args("member name not provided")
    if len(words) > 1:
        bad_args("too many arguments")
    from kvctl import session
    from kvstore.client import Client
    from kvstore.client.results import MemberAdded

    urls = _urls(peer_urls)

    async def work(client: Client) -> MemberAdded:
        return await client.cluster.add(urls, learner=learner)

    added = session.call(settings, work)
    display.show(display.writer(settings).member_added(added))
    if settings.write_out == "simple":
        cluster = ",".join(
            f"{words[0] if each.id == added.member.id else each.name}={url}"
            for each in added.members
            for url in each.peer_urls
        )
        print(f'\nETCD_NAME="{words[0]}"')
        print(f'ETCD_INITIAL_CLUSTER="{cluster}"')
        print(f'ETCD_INITIAL_ADVERTISE_PEER_URLS="{peer_urls}"')
        print('ETCD_INITIAL_CLUSTER_STATE="existing"')


@member.command(
    formats=display.SHORT_FORMATS,
    short_help="Remove a member.",
    epilog="Example: kvctl member remove 8211f1d0f64f3269",
    options_metavar="",
)
@click.argument("words", metavar="<memberID>", nargs=-1)
def remove(settings: Settings, words: tuple[str, ...]) -> None:
    """Remove the member from the cluster."""
    member_id = _member_id(words)
    from kvctl import session

    result = session.call(settings, lambda client: client.cluster.remove(member_id))
    display.show(display.writer(settings).member_changed("removed from", member_id, result))


@member.command(
    formats=display.SHORT_FORMATS,
    short_help="Change a member's peer addresses.",
    epilog="Example: kvctl member update 8211f1d0f64f3269 --peer-urls=http://10.0.0.9:2380",
    options_metavar="[options]",
)
@click.argument("words", metavar="<memberID>", nargs=-1)
@click.option("--peer-urls", default="", metavar="URLS", help="where it listens for its peers, separated by commas")
def update(settings: Settings, words: tuple[str, ...], peer_urls: str) -> None:
    """Change where the member listens for its peers."""
    member_id = _member_id(words)
    urls = _urls(peer_urls)
    from kvctl import session

    result = session.call(settings, lambda client: client.cluster.update(member_id, urls))
    display.show(display.writer(settings).member_changed("updated in", member_id, result))


@member.command(
    formats=display.SHORT_FORMATS,
    short_help="Give a learner its vote.",
    epilog="Example: kvctl member promote 9bf1b35fc7761a23",
    options_metavar="",
)
@click.argument("words", metavar="<memberID>", nargs=-1)
def promote(settings: Settings, words: tuple[str, ...]) -> None:
    """Give a learner that has caught up its vote."""
    member_id = _member_id(words)
    from kvctl import session

    result = session.call(settings, lambda client: client.cluster.promote(member_id))
    display.show(display.writer(settings).member_changed("promoted in", member_id, result))


def _urls(text: str) -> list[str]:
    if not text:
        bad_args("member peer urls not provided")
    return text.split(",")


def _member_id(words: tuple[str, ...]) -> int:
    if len(words) != 1:
        bad_args("member ID is not provided")
    try:
        return gotext.parse_int(words[0], base=16, signed=False)
    except ValueError as error:
        bad_args(f"bad member ID arg ({error}), expecting ID in Hex")


COMMANDS = {"member": member}

"""`get`, `put`, `del` and `compaction`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from kvctl import display, gotext
from kvctl.failure import CommandFailed, Exit, bad_args
from kvctl.options import INT, Command, Settings, flag

if TYPE_CHECKING:
    from kvstore.client import Delete, Get, KeyRange, Put

_RANGE_DELETE_PAUSE = 2.0
"""Seconds in which a deletion of a range that was not announced by `--range` can be interrupted."""


@click.command(
    cls=Command,
    formats=display.KV_FORMATS,
    options_metavar="[options]",
    short_help="Get a key or a range of keys.",
    epilog="Example: kvctl get --prefix --keys-only --limit 10 jobs/",
)
@click.argument("keys", metavar="<key> [range_end]", nargs=-1)
@click.option("--consistency", default="l", metavar="l|s", help="linearizable (l), or serializable (s): maybe stale")
@click.option("--order", default="", metavar="ASCEND|DESCEND", help="order of results")
@click.option("--sort-by", default="", metavar="CREATE|KEY|MODIFY|VALUE|VERSION", help="what to order by")
@click.option("--limit", type=INT, default=0, metavar="N", help="at most so many keys")
@flag("--prefix", help="get keys with that prefix; with an empty key, all")
@flag("--from-key", help="get keys from that key on, byte by byte")
@click.option("--rev", type=INT, default=0, metavar="REV", help="get keys as they were at that revision")
@flag("--keys-only", help="get only the keys")
@flag("--count-only", help="get only the number of keys; with --write-out=fields")
@flag("--print-value-only", help="print only values; with --write-out=simple")
@click.option("--min-create-rev", type=INT, default=0, metavar="REV", help="lowest creation revision")
@click.option("--max-create-rev", type=INT, default=0, metavar="REV", help="highest creation revision")
@click.option("--min-mod-rev", type=INT, default=0, metavar="REV", help="lowest modification revision")
@click.option("--max-mod-rev", type=INT, default=0, metavar="REV", help="highest modification revision")
def get(settings: Settings, **options: Any) -> None:
    """Get the key, or the keys from <key> up to and without [range_end], and print each key and its value."""
    op = get_op(options)
    if options["count_only"] and settings.write_out != "fields":
        bad_args("--count-only is only for `--write-out=fields`")
    if options["print_value_only"] and settings.write_out != "simple":
        bad_args("print-value-only is only for `--write-out=simple`")
    from kvctl import session

    result = session.call(settings, lambda client: client.kv.read(op))
    if options["print_value_only"]:
        from kvctl.write_simple import SimpleWriter

        display.show(SimpleWriter(settings.hex, values_only=True).get(result))
    else:
        display.show(display.writer(settings).get(result))


def get_op(options: dict[str, Any]) -> Get:
    """The read that the flags and arguments of `get` describe. Raises CommandFailed where they contradict."""
    from kvstore.client import Get, SortOrder, SortTarget

    keys = options["keys"]
    if not keys:
        bad_args("get command needs one argument as key and an optional argument as range_end")
    _check_range(options)
    if options["keys_only"] and options["count_only"]:
        bad_args("`--keys-only` and `--count-only` cannot be set at the same time, choose one")
    if options["consistency"] not in ("l", "s"):
        raise CommandFailed(Exit.BAD_FEATURE, f'unknown consistency flag "{options["consistency"]}"')
    target = _target(options)
    orders = {"": SortOrder.NONE, "ASCEND": SortOrder.ASCEND, "DESCEND": SortOrder.DESCEND}
    targets = {
        "": SortTarget.KEY, "CREATE": SortTarget.CREATE, "KEY": SortTarget.KEY, "MODIFY": SortTarget.MOD,
        "VALUE": SortTarget.VALUE, "VERSION": SortTarget.VERSION,
    }  # fmt: skip
    if options["order"].upper() not in orders:
        raise CommandFailed(Exit.BAD_FEATURE, f"bad sort order {options['order']}")
    if options["sort_by"].upper() not in targets:
        raise CommandFailed(Exit.BAD_FEATURE, f"bad sort target {options['sort_by']}")
    return Get(
        target,
        limit=options["limit"],
        revision=max(0, options["rev"]),
        order=orders[options["order"].upper()],
        sort_by=targets[options["sort_by"].upper()],
        serializable=options["consistency"] == "s",
        keys_only=options["keys_only"],
        count_only=options["count_only"],
        min_mod_revision=options["min_mod_rev"],
        max_mod_revision=options["max_mod_rev"],
        min_create_revision=options["min_create_rev"],
        max_create_revision=options["max_create_rev"],
    )


@click.command(
    cls=Command,
    formats=display.KV_FORMATS,
    options_metavar="[options]",
    short_help="Put a key into the store.",
    epilog="Example: kvctl put --lease=694d5765fc71500b workers/me alive",
)
@click.argument("words", metavar="<key> <value>", nargs=-1)
@click.option("--lease", default="0", metavar="ID", help="lease to attach to the key, in hexadecimal")
@flag("--prev-kv", help="print the key as it was before")
@flag("--ignore-value", help="keep the present value")
@flag("--ignore-lease", help="keep the present lease")
def put(settings: Settings, **options: Any) -> None:
    """Put the key into the store. A value that is not given is read from standard input: `kvctl put k < file`.

    A value that begins with a dash needs a double dash before it: `kvctl put k -- -1`.
    """
    op = put_op(options, sys.stdin.buffer.read)
    from kvctl import session
    from kvstore.client import Client
    from kvstore.client.results import PutResult

    async def work(client: Client) -> PutResult:
        return await client.kv.put(
            op.key,
            op.value,
            lease=op.lease,
            prev_kv=op.prev_kv,
            ignore_value=op.ignore_value,
            ignore_lease=op.ignore_lease,
        )

    display.show(display.writer(settings).put(session.call(settings, work)))


def put_op(options: dict[str, Any], read: Callable[[], bytes]) -> Put:
    """The write that the flags and arguments of `put` describe; a value not given is what `read` returns."""
    from kvstore.client import Put

    words = options["words"]
    if not words:
        bad_args("put command needs 1 argument and input from stdin or 2 arguments")
    if options["ignore_value"] and len(words) > 1:
        bad_args("put command needs only 1 argument when 'ignore-value' is set")
    value: bytes | str = b""
    if not options["ignore_value"]:
        value = words[1] if len(words) > 1 else read()
        if len(words) == 1 and not value:
            bad_args("put command needs 1 argument and input from stdin or 2 arguments")
    try:
        lease = gotext.parse_int(options["lease"], base=16)
    except ValueError as error:
        bad_args(f"bad lease ID ({error}), expecting ID in Hex")
    return Put(words[0], value, lease, options["prev_kv"], options["ignore_value"], options["ignore_lease"])


@click.command(
    cls=Command,
    formats=display.KV_FORMATS,
    options_metavar="[options]",
    short_help="Remove a key or a range of keys.",
    epilog="Example: kvctl del --prefix --prev-kv jobs/",
)
@click.argument("keys", metavar="<key> [range_end]", nargs=-1)
@flag("--prefix", help="delete keys with that prefix; with an empty key, all")
@flag("--from-key", help="delete keys from that key on, byte by byte")
@flag("--prev-kv", help="print the deleted keys and values")
@flag("--range", help="a range is meant: delete it without a pause")
def delete(settings: Settings, **options: Any) -> None:
    """Remove the key, or the keys from <key> up to and without [range_end], and print how many there were.

    A range that is not announced by --range is deleted after two seconds, in which the command can be interrupted.
    """
    op = delete_op(options)
    from kvctl import session

    result = session.call(settings, lambda client: client.kv.delete(op.target, prev_kv=op.prev_kv))
    display.show(display.writer(settings).delete(result))


def delete_op(options: dict[str, Any]) -> Delete:
    """The deletion that the flags and arguments of `del` describe; pauses before a range without `--range`."""
    from kvstore.client import Delete

    keys = options["keys"]
    if not 1 <= len(keys) <= 2:
        bad_args("del command needs one argument as key and an optional argument as range_end")
    _check_range(options)
    if len(keys) == 2 and not options["range"]:
        start, end = (gotext.quote(key.encode("utf-8", "surrogateescape")) for key in keys)
        print(
            f"Warning: Keys between {start} and {end} will be deleted. Please interrupt the command within next 2 "
            "seconds to cancel. You can provide `--range` flag to avoid the delay.",
            file=sys.stderr,
        )
        time.sleep(_RANGE_DELETE_PAUSE)
    return Delete(_target(options), options["prev_kv"])


@click.command(
    cls=Command,
    options_metavar="[options]",
    short_help="Forget the history before a revision.",
    epilog="Example: kvctl compaction --physical 1000000",
)
@click.argument("words", metavar="<revision>", nargs=-1)
@flag("--physical", help="wait until the space has really been freed")
def compaction(settings: Settings, words: tuple[str, ...], physical: bool) -> None:
    """Forget the history of all keys before the revision. What is live is kept, at whatever revision it was written."""
    if len(words) != 1:
        bad_args("compaction command needs 1 argument")
    try:
        revision = gotext.parse_int(words[0])
    except ValueError as error:
        raise CommandFailed(Exit.ERROR, str(error)) from error
    from kvctl import session

    session.call(settings, lambda client: client.kv.compact(revision, physical=physical))
    print(f"compacted revision {revision}")


def _check_range(options: dict[str, Any]) -> None:
    if options["prefix"] and options["from_key"]:
        bad_args("`--prefix` and `--from-key` cannot be set at the same time, choose one")
    if len(options["keys"]) > 1 and (options["prefix"] or options["from_key"]):
        bad_args("too many arguments, only accept one argument when `--prefix` or `--from-key` is set")


def _target(options: dict[str, Any]) -> KeyRange:
    from kvstore.client.keys import as_range, from_key, key_range, prefix

    keys = options["keys"]
    if len(keys) > 1:
        return key_range(keys[0], keys[1])
    if options["prefix"]:
        return prefix(keys[0])
    return from_key(keys[0]) if options["from_key"] else as_range(keys[0])


COMMANDS = {"compaction": compaction, "del": delete, "get": get, "put": put}

"""`watch`: follow keys from the command line, or several ranges from an interactive prompt on standard input."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from kvctl import display, gotext
from kvctl.failure import CommandFailed, Exit, bad_args
from kvctl.options import INT, Command, Settings, flag
from kvctl.txn import split_words

if TYPE_CHECKING:
    from kvstore.client import Client, Event, Target, Watcher


class _WatchCommand(Command):
    """A command whose last words, after a double dash, are another command, to be run for each event."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        command: tuple[str, ...] | None = None
        if "--" in args:
            at = args.index("--")
            args, command = args[:at], tuple(args[at + 1 :])
        rest = super().parse_args(ctx, args)
        ctx.params["command"] = command
        return rest


@dataclass(slots=True, frozen=True)
class _Request:
    """What to watch, and the command to run for each event; empty for none."""

    keys: tuple[str, ...]
    command: tuple[str, ...]
    prefix: bool
    revision: int
    prev_kv: bool
    progress_notify: bool

    @classmethod
    def of(cls, options: dict[str, Any]) -> _Request:
        """Raises CommandFailed where the words and the environment do not make a watch."""
        keys: tuple[str, ...] = options["keys"]
        command: tuple[str, ...] | None = options["command"]
        from_environment = _keys_from_environment()
        if command == ():
            bad_args("bad number of arguments (found separator --, but no commands)")
        if keys and from_environment:
            bad_args("bad number of arguments (found conflicting environment key)")
        keys = keys or from_environment
        if not keys:
            bad_args("bad number of arguments")
        if len(keys) == 2 and options["prefix"]:
            bad_args("`range_end` and `--prefix` are mutually exclusive")
        return cls(
            keys, command or (), options["prefix"], options["rev"], options["prev_kv"], options["progress_notify"]
        )

    def target(self) -> Target:
        from kvstore.client import key_range, prefix

        if len(self.keys) == 2:
            return key_range(self.keys[0], self.keys[1])
        return prefix(self.keys[0]) if self.prefix else self.keys[0]

    def start(self, client: Client) -> Watcher:
        return client.watch(
            self.target(),
            start_revision=self.revision,
            prev_kv=self.prev_kv,
            progress_notify=self.progress_notify,
            require_leader=True,
        )


@click.command(
    cls=_WatchCommand,
    formats=display.KV_FORMATS,
    options_metavar="[options]",
    short_help="Follow the changes of keys.",
    epilog="Example: kvctl watch --prefix jobs/ -- sh -c 'echo $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY'",
)
@click.argument("keys", metavar="[key or prefix] [range_end] [--] [exec-command ...]", nargs=-1)
@flag("-i", "--interactive", help="read watches from standard input")
@flag("--prefix", help="watch all keys with that prefix")
@click.option("--rev", type=INT, default=0, metavar="REV", help="begin with the changes of that revision")
@flag("--prev-kv", help="print the key as it was before each event, too")
@flag("--progress-notify", help="print how far the watch has come when nothing changes")
def watch(settings: Settings, **options: Any) -> None:
    """Print the changes of a key, of the keys up to [range_end], or of a prefix, until interrupted.

    A command after a double dash is run for each event, with ETCD_WATCH_REVISION, ETCD_WATCH_EVENT_TYPE,
    ETCD_WATCH_KEY and ETCD_WATCH_VALUE in its environment. The key and range end can also come from the environment,
    as KVCTL_WATCH_KEY and KVCTL_WATCH_RANGE_END (or ETCDCTL_).

    With --interactive, each line of standard input is `watch [options] <key> [range_end] [-- command ...]`, or
    `progress` to print how far the watches have come.
    """
    if options.pop("interactive"):
        _run(settings, _interactive(settings))
    else:
        _run(settings, _one(settings, _Request.of(options)))


def _run(settings: Settings, work: Any) -> None:
    from kvctl import session

    session.run(settings, work, failing=Exit.BAD_CONNECTION)


async def _one(settings: Settings, request: _Request) -> None:
    from kvctl import session
    from kvstore.client import errors

    async with session.make_client(settings) as client:
        try:
            await client.connect()
        except errors.ConnectionFailed as error:
            raise errors.CallTimeout from error
        await _follow(settings, request, request.start(client))
    raise CommandFailed(Exit.INTERRUPTED, "watch is canceled by the server")


async def _follow(settings: Settings, request: _Request, watcher: Watcher) -> None:
    """Print what the watcher sees until the server ends it."""
    from kvstore.client import errors

    writer = display.writer(settings)
    try:
        async for response in watcher:
            if response.is_progress:
                display.show(b"progress notify: %d\n" % response.header.revision)
            display.show(writer.watch(response))
            if request.command:
                for event in response.events:
                    await _execute(request.command, event, response.header.revision)
    except errors.ServerError as error:
        print(f"watch was canceled ({error})", file=sys.stderr)
        compact_revision = error.compact_revision if isinstance(error, errors.Compacted) else 0
        display.show(writer.watch_canceled(watcher.header, compact_revision))


async def _execute(command: tuple[str, ...], event: Event, revision: int) -> None:
    """Run the command for an event. Raises CommandFailed if it cannot be run or fails."""
    environment = os.environ | {
        "ETCD_WATCH_REVISION": str(revision),
        "ETCD_WATCH_EVENT_TYPE": f'"{event.type.name}"',
        "ETCD_WATCH_KEY": gotext.quote(event.kv.key),
        "ETCD_WATCH_VALUE": gotext.quote(event.kv.value),
    }
    try:
        process = await asyncio.create_subprocess_exec(*command, env=environment)
        code = await process.wait()
        problem = f"exit status {code}" if code > 0 else f"signal {-code}" if code else ""
    except FileNotFoundError:
        problem = f'exec: "{command[0]}": executable file not found in $PATH'
    except OSError as error:
        problem = f'exec: "{command[0]}": {error.strerror}'
    if problem:
        quoted = " ".join(gotext.quote(word.encode("utf-8", "surrogateescape")) for word in command)
        print(f"command [{quoted}] error ({problem})", file=sys.stderr)
        raise CommandFailed(Exit.ERROR, "")


async def _interactive(settings: Settings) -> None:
    """Serve the lines of standard input until it ends, which is an error as it is in etcdctl."""
    from kvctl import session

    lines = _lines_of_stdin()
    followers: set[asyncio.Task[None]] = set()
    watchers: list[Watcher] = []
    async with session.make_client(settings) as client:
        while True:
            next_line = asyncio.ensure_future(lines.get())
            done, _ = await asyncio.wait({next_line, *followers}, return_when=asyncio.FIRST_COMPLETED)
            for follower in done & followers:
                followers.discard(follower)
                follower.result()
            if next_line not in done:
                next_line.cancel()
                continue
            line = next_line.result()
            if not line:
                raise CommandFailed(Exit.INVALID_INPUT, "error reading watch request line: EOF")
            request = _requested(line)
            if request is not None:
                watchers.append(request.start(client))
                followers.add(asyncio.ensure_future(_follow(settings, request, watchers[-1])))
            elif line.split()[:1] == [b"progress"]:
                for watcher in watchers:
                    await watcher.request_progress()


def _lines_of_stdin() -> asyncio.Queue[bytes]:
    """The lines as they are typed, an empty one at the end. A daemon thread reads: nothing waits for it at exit."""
    lines: asyncio.Queue[bytes] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    typed = sys.stdin.buffer

    def read() -> None:
        line = b"-"
        while line:
            line = typed.readline()
            try:
                loop.call_soon_threadsafe(lines.put_nowait, line)
            except RuntimeError:
                return  # The loop has ended, and the command with it.

    threading.Thread(target=read, daemon=True).start()
    return lines


def _requested(line: bytes) -> _Request | None:
    """The watch that a line asks for; None if it asks for something else or, after a complaint, for nothing known."""
    words = split_words(line)
    shown = line.rstrip(b"\n").decode("utf-8", "replace")
    if not words:
        _complain(f"Invalid command: {shown} (watch and progress supported)")
    elif words[0] == "watch" and len(words) < 2 and not _keys_from_environment():
        _complain(f"Invalid command {shown} (command type or key is not provided)")
    elif words[0] == "watch":
        return _parsed(words[1:], shown)
    elif words[0] != "progress":
        _complain(f"Invalid command {shown} (only support watch)")
    return None


def _parsed(words: list[str], line: str) -> _Request | None:
    """The watch on a line; None, after a complaint, for two arguments that exclude each other."""
    try:
        with watch.make_context("watch", words) as context:
            return _Request.of(context.params)
    except click.NoSuchOption as error:
        raise CommandFailed(Exit.BAD_ARGS, f"unknown flag: {error.option_name}") from error
    except click.ClickException as error:
        raise CommandFailed(Exit.BAD_ARGS, error.format_message()) from error
    except CommandFailed as failure:
        if "mutually exclusive" not in str(failure):
            raise
        _complain(f"Invalid command {line} ({failure})")
        return None


def _complain(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _keys_from_environment() -> tuple[str, ...]:
    key, end = (
        os.environ.get(f"KVCTL_WATCH_{name}") or os.environ.get(f"ETCDCTL_WATCH_{name}", "")
        for name in ("KEY", "RANGE_END")
    )
    if end and not key:
        bad_args(f"ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={gotext.quote(end.encode())}")
    return tuple(word for word in (key, end) if word)


COMMANDS = {"watch": watch}

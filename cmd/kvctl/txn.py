"""`txn`: a transaction read from standard input in etcdctl's three paragraphs."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kvctl import display, gotext, kv
from kvctl.failure import CommandFailed, Exit, bad_args
from kvctl.options import Command, Settings, flag

if TYPE_CHECKING:
    from kvstore.client import Compare, Op

T = TypeVar("T")

_WORD = re.compile(rb"""("(?:[^"\\]|\\.)*")|('[^']*')|([^'"\s]\S*[^'"\s]?)""")
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"')
_OPERATOR = re.compile(rb"\)\s+(\S+)")


@click.command(
    cls=Command,
    formats=display.KV_FORMATS,
    options_metavar="[options]",
    short_help="Run several requests as one transaction.",
    epilog="""Example:

    \b
    kvctl txn <<'END'
    mod("lock") = "0"

    \b
    put lock mine

    \b
    get lock

    \b
    END
    """,
)
@click.argument("words", metavar="", nargs=-1)
@flag("-i", "--interactive", help="say what is expected next")
def txn(settings: Settings, words: tuple[str, ...], interactive: bool) -> None:
    """Read a transaction from standard input and run it in one revision.

    It has three paragraphs, each ended by an empty line: conditions, one a line; the requests that run if all of them
    hold; the requests that run otherwise. Requests are get, put and del as on the command line.

    \b
    A condition compares one property of a key, both in double quotes:
      ver, version   how often the key was written        version("k") > "0"
      c, create      the revision of its creation         create("k") = "0"
      m, mod         the revision of its last change      mod("k") < "100"
      val, value     its value                            value("k") != "v"
      lease          its lease, in hexadecimal            lease("k") = "0"
    """
    if words:
        bad_args("txn command does not accept argument")
    from kvctl import session

    def prompt(text: str) -> None:
        if interactive:
            print(text, flush=True)

    prompt("compares:")
    compares = _paragraph(_compare)
    prompt("success requests (get, put, del):")
    success = _paragraph(_request)
    prompt("failure requests (get, put, del):")
    failure = _paragraph(_request)
    result = session.call(
        settings, lambda client: client.kv.txn().when(*compares).then(*success).otherwise(*failure).commit()
    )
    display.show(display.writer(settings).txn(result))


def _paragraph(parse: Callable[[bytes], T]) -> list[T]:
    """The lines up to an empty one. Raises CommandFailed if the input ends before it."""
    parsed: list[T] = []
    while True:
        line = sys.stdin.buffer.readline()
        if not line.endswith(b"\n"):
            raise CommandFailed(Exit.INVALID_INPUT, "EOF")
        line = line.strip()
        if not line:
            return parsed
        parsed.append(parse(line))


def split_words(line: bytes) -> list[str]:
    """The words of a line as a shell would see them: quoted in single quotes as they are, in double with escapes."""
    words: list[bytes] = []
    for double, single, bare in _WORD.findall(line):
        try:
            words.append(gotext.unquote(double[1:-1]) if double else single[1:-1] if single else bare)
        except ValueError as error:
            raise CommandFailed(Exit.INVALID_INPUT, str(error)) from error
    return [word.decode("utf-8", "surrogateescape") for word in words]


def _request(line: bytes) -> Op:
    shown = line.decode("utf-8", "surrogateescape")
    words = split_words(line)
    if len(words) < 2:
        raise CommandFailed(Exit.INVALID_INPUT, f"invalid txn compare request: {shown}")
    parsers: dict[str, tuple[click.Command, Callable[[dict[str, Any]], Op]]] = {
        "get": (kv.get, kv.get_op),
        # Standard input is the transaction: nothing in it can be a value.
        "put": (kv.put, lambda options: kv.put_op(options, lambda: b"")),
        "del": (kv.delete, kv.delete_op),
    }
    try:
        command, make = parsers[words[0]]
        with command.make_context(words[0], words[1:]) as context:
            return make(context.params)
    except (KeyError, click.ClickException) as error:
        raise CommandFailed(Exit.INVALID_INPUT, f"invalid txn request: {shown}") from error


def _compare(line: bytes) -> Compare:
    from kvstore.client import Compare

    shown = line.decode("utf-8", "surrogateescape")
    target, parenthesis, rest = line.partition(b"(")
    if not parenthesis:
        raise CommandFailed(Exit.INVALID_INPUT, f"malformed comparison: {shown}")
    key, operator, value = _scan(rest)
    if value is None:
        got = f'{target.decode()}({gotext.quote(key)}) {operator} ""'
        raise CommandFailed(Exit.INVALID_INPUT, f"malformed comparison: {shown}; got {got}")
    makers: dict[bytes, tuple[Callable[[bytes, str, int], Compare], int]] = {
        b"ver": (Compare.version, 10),
        b"version": (Compare.version, 10),
        b"c": (Compare.create_revision, 10),
        b"create": (Compare.create_revision, 10),
        b"m": (Compare.mod_revision, 10),
        b"mod": (Compare.mod_revision, 10),
        b"lease": (Compare.lease, 16),
    }
    try:
        if target in (b"val", b"value"):
            return Compare.value(key, operator, value)
        make, base = makers[target]
        return make(key, operator, gotext.parse_int(value.decode("utf-8", "surrogateescape"), base=base))
    except KeyError:
        message = f"malformed comparison: {shown} (unknown target {target.decode()})"
        raise CommandFailed(Exit.INVALID_INPUT, message) from None
    except ValueError as error:
        raise CommandFailed(Exit.INVALID_INPUT, f"invalid txn compare request: {shown} ({error})") from error


def _scan(rest: bytes) -> tuple[bytes, str, bytes | None]:
    """Key, operator and value after the parenthesis: what could be read, the value None if not everything could."""
    try:
        key = _QUOTED.match(rest)
        if key is None:
            return b"", "", None
        operator = _OPERATOR.match(rest, key.end())
        if operator is None:
            return gotext.unquote(key[1]), "", None
        value = _QUOTED.match(rest[operator.end() :].lstrip())
        return gotext.unquote(key[1]), operator[1].decode(), gotext.unquote(value[1]) if value else None
    except ValueError:
        return b"", "", None


COMMANDS = {"txn": txn}

"""What every command that talks to a cluster needs: a client made from the global flags, and errors turned to exits.

Importing this module imports gRPC; commands do so when they run, not when they are declared.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import click

from kvctl import gotext
from kvctl.failure import CommandFailed, Exit, bad_args
from kvctl.options import Settings
from kvstore.client import Client, TLSConfig, errors
from kvstore.client.tls import TLSError

T = TypeVar("T")


def make_client(settings: Settings, endpoints: Sequence[str] | None = None) -> Client:
    """A client as the global flags say. Raises CommandFailed for flags that cannot work."""
    user, password = _login(settings)
    try:
        return Client(
            settings.endpoints if endpoints is None else endpoints,
            tls=_tls(settings),
            user=user,
            password=password,
            timeout=settings.command_timeout,
            dial_timeout=settings.dial_timeout,
            keepalive_time=settings.keepalive_time,
            keepalive_timeout=settings.keepalive_timeout,
        )
    except errors.NoEndpoints as error:
        raise CommandFailed(Exit.BAD_CONNECTION, str(error)) from error
    except ValueError as error:
        bad_args(str(error))


def call(settings: Settings, work: Callable[[Client], Awaitable[T]], *, failing: Exit = Exit.ERROR) -> T:
    """Do the work with a client. An error of the client's becomes a CommandFailed with the code `failing`."""

    async def body() -> T:
        async with make_client(settings) as client:
            return await work(client)

    return run(settings, body(), failing=failing)


def run(settings: Settings, work: Coroutine[Any, Any, T], *, failing: Exit = Exit.ERROR) -> T:
    """Run a coroutine to its end, errors as in `call`."""
    try:
        return asyncio.run(work)
    except TLSError as error:
        raise CommandFailed(Exit.BAD_ARGS, str(error)) from error
    except errors.ClientError as error:
        warn(settings, error)
        raise CommandFailed(failing, str(error)) from error


def warn(settings: Settings, error: errors.ClientError, target: str = "") -> None:
    """Log a failed call on standard error, one line of JSON, with what the short message leaves out."""
    cause = error if isinstance(error, errors.ServerError) else error.__cause__
    line = {
        "level": "warn",
        "ts": _now(),
        "logger": "kvctl",
        "msg": "call failed",
        "target": target or ",".join(settings.endpoints),
        "error": _in_full(cause or error),
    }
    print(gotext.to_json(line), file=sys.stderr)


def _in_full(error: BaseException) -> str:
    if isinstance(error, errors.RpcError):
        return str(error)
    if isinstance(error, errors.ServerError):
        return f"rpc error: code = {errors.code_name(error.code)} desc = {error}"
    return f"{error}"


def _now() -> str:
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"


def _tls(settings: Settings) -> TLSConfig | None:
    wanted = settings.cacert or settings.cert or settings.key or not settings.insecure_transport
    if not wanted and not settings.insecure_skip_tls_verify:
        return None
    config = TLSConfig(
        settings.cacert,
        settings.cert,
        settings.key,
        skip_verify=settings.insecure_skip_tls_verify,
        secure_bare=bool(wanted),
    )
    for path in (settings.cacert, settings.cert, settings.key):
        if path and not os.path.isfile(path):
            bad_args(f"open {path}: no such file or directory")
    return config


def _login(settings: Settings) -> tuple[str, str]:
    if not settings.user:
        return "", ""
    if settings.password:
        return settings.user, settings.password
    user, colon, password = settings.user.partition(":")
    if not colon:
        password = click.prompt("Password", hide_input=True, err=True)
    return user, password


def endpoints_of(settings: Settings) -> tuple[str, ...]:
    """The endpoints a command is about: those of the flag, or with `--cluster` those that the members advertise."""
    if not settings.cluster:
        return settings.endpoints
    try:
        listed = call(settings, lambda client: client.cluster.members())
    except CommandFailed as failure:
        message = f"failed to fetch endpoints from etcd cluster member list: {failure}"
        raise CommandFailed(Exit.ERROR, message) from failure
    return tuple(dict.fromkeys(url for member in listed.members for url in member.client_urls))

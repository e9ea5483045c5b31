"""Flags as etcdctl's users write them, on top of click.

What click does not do by itself: the global flags before, between and after the command's own words; `--flag=false`;
numbers and durations in Go's spelling; values from `KVCTL_NAME` or else `ETCDCTL_NAME` in the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kvctl import gotext
from kvctl.failure import CommandFailed, Exit, bad_args

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # Generic in newer releases only.

F = TypeVar("F", bound=Callable[..., Any])
FORMATS = ("simple", "json", "fields", "table")


class GoValue(ParamType):
    """A flag's value, read by one of `gotext`'s parsers; its ValueError becomes etcdctl's message."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            flag = ", ".join(sorted(param.opts, key=len)) if param is not None else self.name
            quoted = gotext.quote(value.encode("utf-8", "surrogateescape"))
            raise CommandFailed(Exit.ERROR, f'invalid argument {quoted} for "{flag}" flag: {error}') from None


INT = GoValue("int", lambda text: gotext.parse_int(text, base=0))
DURATION = GoValue("duration", gotext.parse_duration)
BOOL = GoValue("bool", gotext.parse_bool)


class Flag(click.Option):
    """A yes-or-no flag. `--name=false` says no; click is told so with a second spelling that help does not show."""

    def __init__(self, declarations: list[str], **attributes: Any) -> None:
        super().__init__(declarations, is_flag=True, **attributes)
        self.long_name = max(self.opts, key=len)
        self.secondary_opts = [self.long_name.replace("--", "--no-", 1)]

    def make_metavar(self, ctx: click.Context) -> str:
        return ""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        return ", ".join(sorted(self.opts, key=len)), self.help or ""


def flag(*declarations: str, help: str) -> Callable[[F], F]:
    """Declare a yes-or-no flag of a command."""
    return click.option(*declarations, cls=Flag, default=False, help=help)


@dataclass(slots=True, frozen=True, kw_only=True)
class Settings:
    """The global flags of one invocation, resolved. Times in seconds."""

    endpoints: tuple[str, ...] = ("127.0.0.1:2379",)
    dial_timeout: float = 2.0
    command_timeout: float = 5.0
    keepalive_time: float = 2.0
    keepalive_timeout: float = 6.0
    cacert: str = ""
    cert: str = ""
    key: str = ""
    insecure_transport: bool = True
    insecure_skip_tls_verify: bool = False
    user: str = ""
    password: str = ""
    write_out: str = "simple"
    hex: bool = False
    debug: bool = False
    cluster: bool = False
    command_timeout_given: bool = False

    @classmethod
    def resolve(cls, given: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
        """Flags first, then `KVCTL_*`, then `ETCDCTL_*`, then the defaults."""
        values = _from_environment(environment) | dict(given)
        for name in ("cacert", "cert", "key"):
            if given.get(name) == "":
                bad_args(f"empty string is passed to --{name} option")
        if isinstance(values.get("endpoints"), str):
            values["endpoints"] = tuple(text.strip() for text in values["endpoints"].split(",") if text.strip())
        values["command_timeout_given"] = "command_timeout" in values
        return cls(**values)


def _global_options() -> list[click.Option]:
    def option(*declarations: str, type: ParamType | None = None, help: str, show: str = "") -> click.Option:
        return click.Option(
            declarations, type=type, help=help, metavar=show or None, expose_value=False, callback=_remember
        )

    def switch(name: str, help: str) -> click.Option:
        return Flag([name], default=None, help=help, expose_value=False, callback=_remember)

    return [
        option("--endpoints", help="where members listen, separated by commas (127.0.0.1:2379)", show="URLS"),
        option("-w", "--write-out", help=f"output format: {', '.join(FORMATS)} (simple)", show="FORMAT"),
        switch("--hex", help="print byte strings, and ids in fields and json, in hexadecimal"),
        option("--dial-timeout", type=DURATION, help="how long connecting may take (2s)", show="TIME"),
        option("--command-timeout", type=DURATION, help="how long a short command may take (5s)", show="TIME"),
        option("--keepalive-time", type=DURATION, help="silence before a sign of life is asked for (2s)", show="TIME"),
        option("--keepalive-timeout", type=DURATION, help="how long the sign of life may take (6s)", show="TIME"),
        option("--cacert", help="verify the server's certificate with the authorities in this file", show="FILE"),
        option("--cert", help="identify as a client with the certificate in this file", show="FILE"),
        option("--key", help="and its private key", show="FILE"),
        switch("--insecure-transport", help="do not secure endpoints given without a scheme (true)"),
        switch("--insecure-skip-tls-verify", help="take any certificate of a server; for tests only"),
        option("--user", help="log in as this user; asks for a password that is not given", show="NAME[:PASSWORD]"),
        option("--password", help="the user's password; then --user is the name alone", show="PASSWORD"),
        switch("--debug", help="let the gRPC library log on standard error"),
    ]


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value is not None and param.name is not None:
        ctx.ensure_object(dict)[param.name] = value


def cluster_option() -> Callable[[F], F]:
    """Declare `--cluster` on a command or a group of commands about endpoints."""
    return click.option(
        "--cluster",
        cls=Flag,
        default=None,
        expose_value=False,
        callback=_remember,
        help="use all endpoints from the cluster member list",
    )


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    kinds: dict[str, GoValue] = {"float": DURATION, "bool": BOOL}
    values: dict[str, Any] = {}
    for field in fields(Settings):
        if field.name in ("command_timeout_given", "cluster"):
            continue
        for prefix in ("KVCTL_", "ETCDCTL_"):
            text = environment.get(prefix + field.name.upper())
            if text:
                kind = kinds.get(str(field.type))
                values[field.name] = kind.convert(text, _named(field.name), None) if kind else text
                break
    return values


def _named(field: str) -> click.Parameter:
    return click.Option([f"--{field.replace('_', '-')}"])


class _GlobalFlags(click.Command):
    """What commands and groups have in common: the global flags, and Go's ways to write a flag."""

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.context_settings.setdefault("help_option_names", ["-h", "--help"])
        self.own_params = list(self.params)
        self.params += _global_options()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._as_click_reads(args))

    def _as_click_reads(self, args: list[str]) -> list[str]:
        flags = {param.long_name: param for param in self.params if isinstance(param, Flag)}
        end = args.index("--") if "--" in args else len(args)
        return [*(self._rewritten(arg, flags) for arg in args[:end]), *args[end:]]

    @staticmethod
    def _rewritten(arg: str, flags: Mapping[str, Flag]) -> str:
        if re.match(r"-[a-zA-Z]=", arg):
            return arg[:2] + arg[3:]
        name, equals, value = arg.partition("=")
        if equals and name in flags:
            return name if BOOL.convert(value, flags[name], None) else flags[name].secondary_opts[0]
        return arg

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        common = [param for param in self.params if param not in self.own_params]
        for title, params in (("Options", [*self.own_params, self.get_help_option(ctx)]), ("Global options", common)):
            records = [param.get_help_record(ctx) for param in params if isinstance(param, click.Option)]
            with formatter.section(title):
                formatter.write_dl([record for record in records if record is not None])
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)


class Command(_GlobalFlags):
    """A command. `formats` are the output formats it knows; None if it prints the same text in all of them."""

    def __init__(self, *arguments: Any, formats: tuple[str, ...] | None = None, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.formats = formats

    def settings(self, ctx: click.Context) -> Settings:
        """The global flags of this invocation. Raises CommandFailed for a format that the command does not have."""
        settings = Settings.resolve(ctx.ensure_object(dict), os.environ)
        if settings.write_out not in FORMATS:
            raise CommandFailed(Exit.BAD_FEATURE, "unsupported output format")
        if self.formats is not None and settings.write_out not in self.formats:
            raise CommandFailed(Exit.BAD_FEATURE, f"{settings.write_out} not supported as output format")
        return settings

    def invoke(self, ctx: click.Context) -> Any:
        settings = self.settings(ctx)
        # The core library writes to standard error on its own account, and reads this when it is first imported.
        os.environ.setdefault("GRPC_VERBOSITY", "INFO" if settings.debug else "NONE")
        if self.callback is None:
            return None
        return ctx.invoke(self.callback, settings, **ctx.params)


class Group(_GlobalFlags, click.Group):
    """A group of commands, which may be abbreviated as long as one only is meant."""

    command_class = Command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        names = self.list_commands(ctx)
        if cmd_name not in names:
            meant = [name for name in names if name.startswith(cmd_name)]
            if len(meant) != 1:
                return None
            cmd_name = meant[0]
        return self.load(ctx, cmd_name)

    def load(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of that full name."""
        return super().get_command(ctx, name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        command = self.get_command(ctx, args[0])
        if command is None and not ctx.resilient_parsing:
            path = ctx.command_path
            raise CommandFailed(
                Exit.ERROR, f'unknown command "{args[0]}" for "{path}"\nRun \'{path} --help\' for usage.'
            )
        return (command.name if command else None), command, args[1:]

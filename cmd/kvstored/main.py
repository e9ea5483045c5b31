"""Runs a member: reads its configuration, sets up log and process, and sees it through to its end.

Exit codes: 0 after an orderly stop, 1 when the member cannot start or go on, 2 for a command line that is none, 128 and
the signal's number after a second signal.
"""

import asyncio
import faulthandler
import os
import platform
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NoReturn

import click
import uvloop
from structlog.typing import FilteringBoundLogger

from kvstore.server.bootstrap import BootstrapError
from kvstore.server.config import Config, ConfigError
from kvstore.storage.errors import StorageError
from kvstored import runtime
from kvstored.configuration import CONFIG_FILE, ConfigFileError, Configured, configure
from kvstored.flags import FLAGS, Flag, UnknownFlag, parse_bool
from kvstored.logs import make_logger

Serve = Callable[[Config, FilteringBoundLogger, asyncio.Event, Callable[[], None]], Coroutine[Any, Any, None]]
"""Runs a member until the event is set; calls the last argument once clients are served (kvstore.api.serve.serve)."""


def main(args: Sequence[str] | None = None) -> NoReturn:
    """The command `kvstored`."""
    runtime.hurry()
    command = _command()
    try:
        command.main(_with_two_dashes(sys.argv[1:] if args is None else args), "kvstored", standalone_mode=False)
    except click.NoSuchOption as error:
        _fail(2, str(UnknownFlag(error.option_name.lstrip("-"), "on the command line")))
    except click.ClickException as error:
        _fail(2, error.format_message())
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    sys.exit(0)


def _command() -> click.Command:
    options = [_option(flag) for flag in FLAGS.values()]
    options.append(click.Option([f"--{CONFIG_FILE}", "config_file"]))
    options.append(_printing("--help", _help_text, "-h"))
    options.append(_printing("--version", _version_text))
    return click.Command("kvstored", params=list(options), callback=_run, add_help_option=False)


def _option(flag: Flag) -> click.Option:
    if flag.parse is parse_bool:
        # As in Go, a bare --pre-vote means true.
        return click.Option([f"--{flag.name}", flag.field], is_flag=False, flag_value="true", type=str)
    return click.Option([f"--{flag.name}", flag.field], type=str)


def _printing(name: str, text: Callable[[], str], *more: str) -> click.Option:
    def show(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
        if wanted:
            click.echo(text())
            context.exit()

    return click.Option([name, *more], is_flag=True, expose_value=False, is_eager=True, callback=show)


def _help_text() -> str:
    from kvstored.help import help_text  # here, for a member that starts prints none

    return help_text()


def _version_text() -> str:
    from kvstored.help import version_text

    return version_text()


def _with_two_dashes(args: Sequence[str]) -> list[str]:
    """Arguments with flags that are written with one dash, as Go allows, written with two."""
    return [f"-{arg}" if arg.startswith("-") and arg[1:].partition("=")[0] in FLAGS else arg for arg in args]


def _run(config_file: str | None, **values: str | None) -> None:
    arguments = {name: text for name, flag in FLAGS.items() if (text := values[flag.field]) is not None}
    configured = _configured(arguments, os.environ, config_file)
    config = configured.config
    try:
        logger = make_logger(config.log_level, config.log_format, config.log_outputs)
    except OSError as error:
        _fail(1, f"cannot write the log to {error.filename}: {error.strerror}")
    for notice in configured.notices:
        logger.warning(notice)
    from kvstore.api.serve import serve  # here, so that --help and refusals need not wait for all of the server

    sys.exit(run_member(config, logger, serve))


def _configured(arguments: Mapping[str, str], environ: Mapping[str, str], config_file: str | None) -> Configured:
    try:
        return configure(arguments, environ, config_file)
    except (ConfigError, ConfigFileError, UnknownFlag) as error:
        _fail(1, str(error))


def _fail(code: int, message: str) -> NoReturn:
    click.echo(f"kvstored: {message}", err=True)
    sys.exit(code)


def run_member(config: Config, logger: FilteringBoundLogger, serve: Serve) -> int:
    """Run a member until a signal stops it. The exit code of the process."""
    faulthandler.enable()
    runtime.tune()
    before, after = runtime.raise_descriptor_limit()
    logger.info(
        "starting",
        name=config.name,
        data_dir=str(config.data_dir),
        descriptors=after,
        descriptors_before=before,
        python=platform.python_version(),
        modules=runtime.kind_of_modules(),
    )
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve_until_signal(config, logger, serve))
    except (ConfigError, BootstrapError, StorageError) as error:
        return _give_up(logger, str(error))
    except OSError as error:
        return _give_up(logger, _os_error_text(error))
    logger.info("stopped")
    return 0


async def _serve_until_signal(config: Config, logger: FilteringBoundLogger, serve: Serve) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            logger.warning("second signal, exiting at once", signal=number.name)
            os._exit(128 + number)
        logger.info("stopping", signal=number.name)
        runtime.notify_service_manager("STOPPING=1", os.environ)
        stop.set()

    def ready() -> None:
        runtime.settle()
        logger.info("ready to serve client requests", urls=[str(url) for url in config.advertise_client_urls])
        runtime.notify_service_manager("READY=1", os.environ)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    await serve(config, logger, stop, ready)


def _give_up(logger: FilteringBoundLogger, reason: str) -> int:
    logger.error("the member cannot run", error=reason)
    return 1


def _os_error_text(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"

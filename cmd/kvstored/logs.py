"""The daemon's log: structlog, as JSON lines with etcd's keys or as text for a terminal."""

import contextlib
import json
import logging
import sys
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any, Final, TextIO

import structlog
from structlog.processors import CallsiteParameter, CallsiteParameterAdder
from structlog.typing import FilteringBoundLogger, Processor

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "panic": logging.CRITICAL,
    "fatal": logging.CRITICAL,
}
_ETCD_NAMES: Final = {"warning": "warn", "critical": "fatal", "exception": "error"}

Event = MutableMapping[str, Any]


def make_logger(level: str, style: str, outputs: Sequence[str]) -> FilteringBoundLogger:
    """A logger that writes to outputs (`default`, `stderr`, `stdout` or paths). style: json or console.

    From then on the loggers of structlog.get_logger write there too, and what libraries log by the standard library,
    from warnings on. Raises OSError if a file cannot be opened.
    """
    streams = [_stream(output) for output in outputs]
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%Y-%m-%dT%H:%M:%S.%fZ", utc=True, key="ts"),
        # The bound logger's own module is no caller; neither is the handler that passes on other libraries' lines.
        CallsiteParameterAdder(
            [CallsiteParameter.PATHNAME, CallsiteParameter.LINENO], additional_ignores=["kvstored.logs", "logging"]
        ),
        structlog.processors.format_exc_info,
        _name_as_etcd,
        _as_json if style == "json" else _as_text,
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        context_class=dict,
        logger_factory=lambda *names: _Output(streams, *names),
    )
    logger: FilteringBoundLogger = structlog.get_logger()
    logging.basicConfig(handlers=[_PassOn(logger)], level=logging.WARNING, force=True)
    return logger


def _stream(output: str) -> TextIO:
    if output in ("default", "stderr"):
        return sys.stderr
    return sys.stdout if output == "stdout" else Path(output).open("a", encoding="utf-8", buffering=1)


class _Output:
    """Writes finished lines; its methods are named as structlog calls a wrapped logger."""

    def __init__(self, streams: Sequence[TextIO], name: str | None = None) -> None:
        self._streams = streams
        self.name = name

    def msg(self, line: str) -> None:
        for stream in self._streams:
            # A log on a full disk, or whose reader is gone, must not end a member: it logs just then.
            with contextlib.suppress(OSError, ValueError):
                stream.write(line + "\n")
                stream.flush()

    debug = info = warning = error = critical = exception = fatal = msg


class _PassOn(logging.Handler):
    """Takes what libraries log (asyncio, aiohttp, grpc) into the daemon's log."""

    def __init__(self, logger: FilteringBoundLogger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        fields = {"logger": record.name}
        if record.exc_info:
            self._logger.log(record.levelno, record.getMessage(), exc_info=record.exc_info, **fields)
        else:
            self._logger.log(record.levelno, record.getMessage(), **fields)


def _name_as_etcd(logger: _Output, method: str, event: Event) -> Event:
    path = Path(event.pop("pathname"))
    level = event.pop("level")
    if logger.name:
        event["logger"] = logger.name
    return {
        "level": _ETCD_NAMES.get(level, level),
        "ts": event.pop("ts"),
        "caller": f"{path.parent.name}/{path.name}:{event.pop('lineno')}",
        "msg": event.pop("event"),
        **event,
    }


def _as_json(logger: Any, method: str, event: Event) -> str:
    return json.dumps(event, default=str, ensure_ascii=False)


def _as_text(logger: Any, method: str, event: Event) -> str:
    line = "\t".join((event.pop("ts"), event.pop("level").upper(), event.pop("caller"), str(event.pop("msg"))))
    trace = event.pop("exception", "")
    if event:
        line += "\t" + json.dumps(event, default=str, ensure_ascii=False)
    return f"{line}\n{trace}" if trace else line

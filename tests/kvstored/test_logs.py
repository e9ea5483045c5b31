"""The log has the keys that collectors set up for etcd expect."""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from kvstored.logs import make_logger


@pytest.fixture(autouse=True)
def _leave_logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_json_lines_have_etcds_keys_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "log"
    make_logger("info", "json", [str(path)]).bind(member="8e9e").warning("slow apply", took="150ms")
    (line,) = lines(path)
    assert list(line) == ["level", "ts", "caller", "msg", "member", "took"]
    assert (line["level"], line["msg"], line["took"]) == ("warn", "slow apply", "150ms")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["ts"])
    assert re.fullmatch(r"kvstored/test_logs\.py:\d+", line["caller"])


@pytest.mark.parametrize(
    ("level", "written"),
    [("debug", 4), ("info", 3), ("warn", 2), ("error", 1), ("panic", 0), ("fatal", 0)],
)
def test_lines_below_the_level_are_left_out(level: str, written: int, tmp_path: Path) -> None:
    path = tmp_path / "log"
    logger = make_logger(level, "json", [str(path)])
    logger.debug("a")
    logger.info("b")
    logger.warning("c")
    logger.error("d")
    assert len(lines(path)) == written


def test_every_output_gets_every_line_and_files_are_appended_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log"
    path.write_text('{"msg": "from before"}\n')
    make_logger("info", "json", ["default", "stdout", str(path)]).info("hello")
    out, err = capsys.readouterr()
    assert out == err == path.read_text().splitlines(keepends=True)[1]
    assert len(lines(path)) == 2


def test_console_lines_are_for_people(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logger = make_logger("info", "console", [str(path)])
    logger.info("serving clients", url="http://localhost:2379")
    logger.info("plain")
    first, second = path.read_text().splitlines()
    assert first.split("\t")[1::2] == ["INFO", "serving clients"]
    assert first.endswith('\t{"url": "http://localhost:2379"}')
    assert second.endswith("\tplain")


def test_an_exception_is_logged_with_its_traceback(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logger = make_logger("info", "json", [str(path)])
    try:
        raise RuntimeError("torn page")
    except RuntimeError:
        logger.exception("apply failed")
    (line,) = lines(path)
    assert line["level"] == "error"
    assert "RuntimeError: torn page" in line["exception"]


def test_warnings_of_libraries_come_along(tmp_path: Path) -> None:
    path = tmp_path / "log"
    make_logger("info", "json", [str(path)])
    logging.getLogger("asyncio").warning("task took %s", "1s")
    logging.getLogger("asyncio").info("not of interest")
    (line,) = lines(path)
    assert (line["level"], line["msg"], line["logger"]) == ("warn", "task took 1s", "asyncio")


def test_loggers_with_a_name_write_there_too(tmp_path: Path) -> None:
    path = tmp_path / "log"
    early = structlog.get_logger("raft")
    make_logger("info", "json", [str(path)])
    early.info("became leader", term=2)
    structlog.get_logger("raft").debug("left out")
    (line,) = lines(path)
    assert (line["msg"], line["logger"], line["term"]) == ("became leader", "raft", 2)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_log_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logger = make_logger("info", "json", ["/dev/full", str(path)])
    logger.error("no room on the disk")
    logger.error("not even text", value="\ud800")
    logger.error("still there")
    assert [line["msg"] for line in lines(path)] == ["no room on the disk", "still there"]

"""Histories that are right pass, whatever they hold; files and the command line; and how long it takes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.history import BadHistory, Recorder, check, load, save
from tests.history.__main__ import main
from tests.history.generate import Shape, generate
from tests.history.model import (
    Compare,
    Event,
    History,
    KeyValue,
    Put,
    PutResult,
    Range,
    RangeResult,
    TimeToLive,
    TimeToLiveResult,
    Txn,
    TxnResult,
)

SHAPES = {
    "plain": Shape(300, clients=5, keys=5),
    "few values, many unknown": Shape(200, clients=6, keys=4, unknown=0.15, watches=0, values=3),
    "unwatched": Shape(300, clients=8, keys=20, unknown=0.1, watches=0),
    "many watches": Shape(200, clients=4, keys=4, watches=8),
    "one key": Shape(150, clients=6, keys=1, unknown=0.1),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("seed", range(12))
def test_a_right_history_passes(seed: int, shape: Shape) -> None:
    report = check(generate(seed, shape))
    assert report.ok, report.summary()


def test_the_same_seed_makes_the_same_history() -> None:
    assert generate(5, SHAPES["plain"]) == generate(5, SHAPES["plain"])
    assert generate(5, SHAPES["plain"]) != generate(6, SHAPES["plain"])


def test_made_up_histories_hold_everything_that_is_checked() -> None:
    history = generate(2, Shape(2000, clients=8, keys=10, watches=6))
    kinds = {type(call.op).__name__ for call in history.calls}
    assert kinds == {"Put", "Range", "Delete", "Txn", "Compact", "Grant", "Revoke", "KeepAlive", "TimeToLive"}
    assert {call.outcome.value for call in history.calls} == {"answered", "refused", "unknown"}
    assert any(type(entry).__name__ == "WatchResumed" for watch in history.watches for entry in watch.log)


def recorded() -> History:
    """Something of everything that a file must carry."""
    now = iter(range(100))
    recorder = Recorder(clock=lambda: next(now))
    compares = (Compare(b"k", "value", "=", b"x"), Compare(b"k", "mod", "=", 3))
    call = recorder.begin("a", Txn(compares, (Put(b"\xff\0", b"v"), Range(b"a", b"\0")), (Txn(),)))
    recorder.answered(call, TxnResult(3, True, (PutResult(3, KeyValue(b"k")), RangeResult(3, (KeyValue(b"k"),), 1))), 7)
    call = recorder.begin("b", TimeToLive(3, keys=True))
    recorder.answered(call, TimeToLiveResult(3, 3, -1, 0, (b"a", b"\x80")))
    recorder.refused(recorder.begin("b", Put(b"k")), "NoSpace")
    recorder.unknown(recorder.begin("b", Put(b"k")), "deadline")
    recorder.begin("b", Put(b"never ended"))
    watch = recorder.watch("c", b"\0", b"\0", start_revision=1, prev_kv=True)
    recorder.created(watch, 3)
    recorder.events(watch, 4, (Event(False, KeyValue(b"k", b"v"), KeyValue(b"k")), Event(True, KeyValue(b"k"))), True)
    recorder.resumed(watch, 5)
    recorder.progress(watch, 5)
    recorder.canceled(watch, 6, 2)
    history = recorder.history()
    history.unrecorded, history.elsewhere = ((2, 3), (5, 5)), ((4, 4),)
    return history


def test_a_saved_history_is_loaded_as_it_was(tmp_path: Path) -> None:
    save(recorded(), tmp_path / "one.jsonl")
    assert load([tmp_path / "one.jsonl"]) == recorded()


def test_files_of_several_processes_make_one_history(tmp_path: Path) -> None:
    whole = generate(4, Shape(100))
    save(History(whole.calls[::2], whole.watches[:1]), tmp_path / "one.jsonl")
    save(History(whole.calls[1::2], whole.watches[1:]), tmp_path / "two.jsonl")
    joined = load([tmp_path / "two.jsonl", tmp_path / "one.jsonl"])
    assert len({call.id for call in joined.calls}) == 100
    assert check(joined).ok, check(joined).summary()


@pytest.mark.parametrize("line", ['{"type":"Nothing"}', '{"type":"Put","key":"k"}', "[", '{"type":"Call","id":1}'])
def test_a_file_that_is_no_history_names_its_line(line: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(f"\n{line}\n", encoding="utf-8")
    with pytest.raises(BadHistory, match="line 2"):
        load([path])


def test_the_command_line_passes_what_it_made_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "good.jsonl")
    assert main(["generate", "--calls", "300", "--seed", "3", path]) == 0
    assert main(["check", path, "--out", str(tmp_path / "out")]) == 0
    assert "no fault found" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_the_command_line_reports_a_fault_and_leaves_its_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history = generate(3, Shape(200))
    reads = [call for call in history.calls if isinstance(call.result, RangeResult) and call.result.kvs]
    result = reads[len(reads) // 2].result
    assert isinstance(result, RangeResult)
    reads[len(reads) // 2].result = RangeResult(result.revision, (KeyValue(b"k000", b"nobody's", 2, 2, 1),), 1)
    save(history, tmp_path / "bad.jsonl")
    assert main(["check", str(tmp_path / "bad.jsonl"), "--out", str(tmp_path / "out")]) == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"history.jsonl", "minimal.jsonl", "minimal.html"}
    assert "are enough to show it" in capsys.readouterr().out


def test_the_command_line_tells_a_bad_file_from_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize("watches", [4, 0])
def test_ten_thousand_calls_take_a_moment(watches: int) -> None:
    history = generate(1, Shape(10_000, clients=20, keys=100, watches=watches))
    began = time.process_time()
    report = check(history)
    assert report.ok, report.summary()
    assert time.process_time() - began < 20


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("watches", [4, 0])
def test_a_hundred_thousand_calls_take_less_than_a_minute(watches: int) -> None:
    history = generate(1, Shape(100_000, clients=20, keys=100, watches=watches))
    began = time.process_time()
    report = check(history)
    assert report.ok, report.summary()
    assert time.process_time() - began < 60

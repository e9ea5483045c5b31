"""The runner tells a difference when there is one, and reads every form of the format."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.raft.vectors.__main__ import main
from tests.raft.vectors.datadriven import Command, FormatError, parse, parse_line, rewrite, run
from tests.raft.vectors.files import environment_for

_SINGLE = """# One voter.
add-nodes 1 voters=(1) index=3
----
INFO 1 switched to configuration voters=(1)
INFO 1 became follower at term 0
INFO newRaft 1 [peers: [1], term: 0, commit: 3, applied: 3, lastindex: 3, lastterm: 1]

campaign 1
----
INFO 1 is starting a new election at term 0
INFO 1 became candidate at term 1

process-ready 1
----
Ready MustSync=true:
Lead:0 State:StateCandidate
HardState Term:1 Vote:1 Commit:3
INFO 1 received MsgVoteResp from 1 at term 1
INFO 1 has received 1 MsgVoteResp votes and 0 vote rejections
INFO 1 became leader at term 1
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "vector.txt"
    path.write_text(text)
    return path


def test_a_vector_that_holds_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, _SINGLE)
    assert main([str(tmp_path)]) == 0
    *_, both, protocol = capsys.readouterr().out.splitlines()
    assert (both, protocol) == ("1 passed, 0 failed", "1 passed, 0 failed (protocol lines alone)")


def test_a_protocol_line_that_differs_fails_both_figures(tmp_path: Path) -> None:
    path = write(tmp_path, _SINGLE.replace("Vote:1 Commit:3", "Vote:1 Commit:4"))
    verdict = run(path, environment_for(path))
    assert verdict.difference == (
        f"{path}:13: process-ready, line 3 of the output\n"
        "  expected: HardState Term:1 Vote:1 Commit:4\n"
        "  actual:   HardState Term:1 Vote:1 Commit:3"
    )
    assert verdict.protocol_difference


def test_a_log_line_that_differs_fails_one_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, _SINGLE.replace("became leader", "became the leader"))
    assert main([str(tmp_path)]) == 1
    *_, both, protocol = capsys.readouterr().out.splitlines()
    assert (both, protocol) == ("0 passed, 1 failed", "1 passed, 0 failed (protocol lines alone)")


@pytest.mark.parametrize("change", ["cut", "added"])
def test_output_that_is_cut_or_added_fails(tmp_path: Path, change: str) -> None:
    text = _SINGLE.replace("Lead:0 State:StateCandidate\n", "") if change == "cut" else _SINGLE + "one more\n"
    path = write(tmp_path, text)
    assert run(path, environment_for(path)).protocol_difference


def test_rewriting_gives_what_comes_out_and_keeps_the_rest(tmp_path: Path) -> None:
    path = write(tmp_path, _SINGLE.replace("INFO", "WARN").replace("Term:1", "Term:9"))
    rewrite(path, environment_for(path))
    assert path.read_text() == _SINGLE


def test_output_without_anything_is_ok(tmp_path: Path) -> None:
    path = write(tmp_path, "log-level none\n----\nok\n\nadd-nodes 1 voters=(1) index=3\n----\nok\n")
    assert run(path, environment_for(path)).difference == ""


def test_input_lines_are_commands_too(tmp_path: Path) -> None:
    path = write(tmp_path, "log-level none\nadd-nodes 1 voters=(1) index=3\nlog-level info\nraft-state\n----\n")
    verdict = run(path, environment_for(path))
    assert "1: StateFollower (Voter) Term:0 Lead:0" in verdict.difference


def test_errors_are_printed_even_when_all_else_is_silenced(tmp_path: Path) -> None:
    text = "log-level none\nadd-nodes 1 voters=(1) index=3\n----\nok\n\npropose 1 x\n----\nraft proposal dropped\n"
    path = write(tmp_path, text)
    assert run(path, environment_for(path)).difference == ""


def test_arguments_are_words_values_and_lists() -> None:
    name, arguments = parse_line("command 1 key=value list=(1, 2,3) empty=() last")
    assert name == "command"
    assert [(a.key, a.values, a.has_value) for a in arguments] == [
        ("1", [], False),
        ("key", ["value"], True),
        ("list", ["1", "2", "3"], True),
        ("empty", [], True),
        ("last", [], False),
    ]


def test_output_with_blank_lines_stands_between_double_separators() -> None:
    (command,) = [item for item in parse("print\n----\n----\na\n\nb\n----\n----\n") if isinstance(item, Command)]
    assert command.expected == ["a", "", "b"]


@pytest.mark.parametrize("text", ["command without separator\n", "print\n----\n----\nno end\n"])
def test_what_is_not_in_the_format_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        list(parse(text))


@pytest.mark.parametrize(
    "text", ["no-such-command\n----\n", "simple\nv1\n----\n\nno-such-command\n----\n", "vote cfg=(1) votes=()\n----\n"]
)
def test_what_is_not_a_command_is_refused(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(FormatError):
        run(path, environment_for(path))

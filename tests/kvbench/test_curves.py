"""Curves: measured once, gone on with after an interruption, and drawn."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from kvbench import curves
from kvbench.main import program


def test_curves_are_measured_drawn_and_kept(tmp_path: Path) -> None:
    out = tmp_path / "plots"
    arguments = ["curves", "--smoke", "--only", "versions", "--out", str(out), "--dir", str(tmp_path)]
    done = CliRunner().invoke(program, arguments)
    assert done.exit_code == 0, done.output
    report = json.loads((out / curves.DATA).read_text())
    assert report["curves"].keys() == {"versions"}
    assert report["curves"]["versions"].keys() == {"1", "3"}
    assert all(rate > 0 for point in report["curves"]["versions"].values() for rate, _ in point.values())
    assert (out / "versions.svg").read_text().startswith("<svg")
    again = CliRunner().invoke(program, arguments)
    assert again.exit_code == 0, again.output
    assert "measured already" in again.output
    assert json.loads((out / curves.DATA).read_text()) == report


@pytest.mark.parametrize("text", ["", "0", "ten", "10,-1"])
def test_sizes_are_positive_numbers(text: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(program, ["curves", "--keys", text, "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "--keys" in done.output


def test_a_curve_that_ends_far_below_its_best_is_told() -> None:
    curve = curves.table()[0]
    level = {10: {"put": (90.0, 1.0)}, 100: {"put": (100.0, 1.0)}, 1000: {"put": (76.0, 1.0)}}
    fallen = {**level, 1000: {"put": (74.0, 1.0)}}
    assert not any("below" in line for line in curves.verdict(curve, level))
    assert any("below" in line for line in curves.verdict(curve, fallen))

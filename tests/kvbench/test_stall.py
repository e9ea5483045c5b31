"""Stalls are measured beside heavy work on a real member."""

import json
from pathlib import Path

from click.testing import CliRunner

from kvbench import disturbances, stall
from kvbench.main import program


def test_stalls_are_measured_from_outside_and_inside(tmp_path: Path) -> None:
    out = tmp_path / "stall.json"
    arguments = ["--duration", "1s", "--keys", "500", "--bulk", "300", "--rate", "100", "--only", "*a?ion*"]
    done = CliRunner().invoke(program, ["stall", *arguments, "--dir", str(tmp_path), "--json", str(out)])
    assert done.exit_code == 0, done.output
    results = {result["name"]: result for result in json.loads(out.read_text())["results"]}
    assert results.keys() == {"log truncation", "defragmentation", "revocation of a lease"}
    for result in results.values():
        assert result["errors"] == 0
        assert result["probes"] > 0
        assert result["p50"] <= result["p999"] <= result["maximum"]
        assert result["lag"] > 0
        assert result["load"] > 0


def test_the_lag_is_that_of_the_time_in_between() -> None:
    before = {0.001: 10, 0.002: 1_000, float("inf"): 1_000}
    after = {0.001: 1_009, 0.002: 2_000, float("inf"): 2_000}
    assert stall.lag(before, after) == 1.0
    assert stall.lag(before, {**after, 0.001: 1_008}) == 2.0
    assert stall.lag(before, before) is None


async def test_what_repeats_is_done_until_it_is_time_and_everything_at_least_once() -> None:
    done: list[str] = []

    async def act(server: object) -> None:
        done.append("once")

    server = disturbances.Server("127.0.0.1:1", disturbances.BULK, 1, 1)
    assert await disturbances.act(disturbances.Disturbance("x", act), server, lambda: False, 0.0) == 1
    assert (
        await disturbances.act(disturbances.Disturbance("x", act, repeats=True), server, lambda: len(done) > 3, 0.0)
        == 3
    )
    await server.close()

"""`python -m tests.chaos`: a cluster of real processes, mistreated under load, and judged."""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

# Members are started all the time beside grpcio's threads.
from tests.chaos.catalog import CATALOG
from tests.chaos.judge import judge
from tests.chaos.nemesis import Nemesis, describe
from tests.chaos.report import summary
from tests.chaos.scenarios import SCENARIOS, Plan
from tests.chaos.verdict import Verdict
from tests.cluster.harness import from_environment
from tests.cluster.harness.process import none_left

EXAMPLES = """\
scenarios
  mixed            faults of all kinds, alone and together, for --seconds
  leader-failures  the leader killed, cut off and paused, --times times each (20)
  minority-lost    as many members as can be spared gone for good, and replaced with kvctl
  all-killed       every member killed at once, --times times (50)
  disk-full        no space left at all members, at a majority, at one follower, at the leader

examples
  python -m tests.chaos --members 3 --seconds 60 --seed 7
  python -m tests.chaos --members 5 --seconds 180 --seeds 1..10 --out chaos-out
  python -m tests.chaos --seconds 30 --seed 3 --faults kill-leader,bridge,lossy
  python -m tests.chaos --scenario leader-failures
  python -m tests.chaos --scenario minority-lost --members 5

A failed run leaves the data, logs and history of its members in its directory, and says how to repeat it.
"""


def main() -> int:
    arguments = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, _interrupt)
    out = Path(arguments.out) if arguments.out else Path(tempfile.mkdtemp(prefix="kvstore-chaos-"))
    out.mkdir(parents=True, exist_ok=True)
    failed = []
    try:
        with none_left():
            for seed in arguments.seeds:
                if not run(arguments, seed, out / f"{arguments.scenario}-{arguments.members}-{seed}"):
                    failed.append(seed)
    except KeyboardInterrupt:
        print("interrupted: every process was ended", flush=True)
        if not arguments.out:
            shutil.rmtree(out)
        return 130
    if len(arguments.seeds) > 1:
        print(
            f"{len(arguments.seeds) - len(failed)} seeds passed, {len(failed)} failed"
            + (f": {failed}" if failed else "")
        )
    if not arguments.out and not failed:
        shutil.rmtree(out)
    return 1 if failed else 0


def run(arguments: argparse.Namespace, seed: int, directory: Path) -> bool:
    """One run with one seed: whether everything held."""
    directory.mkdir(parents=True)
    verdict = Verdict()
    plan = Plan(arguments.seconds, seed, tuple(arguments.faults), arguments.times)
    say(f"{arguments.scenario}: {arguments.members} members, seed {seed}")
    began = time.monotonic()
    with Nemesis(from_environment(), directory, arguments.members, seed, arguments.rate, say) as nemesis:
        try:
            SCENARIOS[arguments.scenario](nemesis, plan)
        except AssertionError as error:
            verdict.violations.append(describe(error))
            say(f"violated: {describe(error)}")
        struck = nemesis.elapsed
        nemesis.finish(verdict)
    judge(nemesis.history, verdict, directory, say)
    say(summary(nemesis, verdict, struck, time.monotonic() - began))
    if verdict.ok:
        if not arguments.keep:
            shutil.rmtree(directory)
        return True
    say(f"everything is left in {directory}\nto repeat: {repeat(arguments, seed)}")
    return False


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--scenario", choices=SCENARIOS, default="mixed", help="what is done (default: mixed)")
    parser.add_argument("--members", type=int, choices=(3, 5), default=3, help="size of the cluster (default: 3)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long faults strike in `mixed` (default: 60)")
    parser.add_argument("--times", type=int, help="how often the faults of other scenarios strike")
    parser.add_argument(
        "--seed", type=seeds, dest="seeds", default=[1], help="of the schedule and the load (default: 1)"
    )
    parser.add_argument("--seeds", type=seeds, metavar="A..B", help="one run for each, one after the other")
    parser.add_argument("--faults", type=faults, default=list(CATALOG), help=f"all, or some of {', '.join(CATALOG)}")
    parser.add_argument("--rate", type=float, default=1_500.0, help="requests a second of all clients (default: 1500)")
    parser.add_argument("--out", help="where runs leave what they made (default: a new temporary directory)")
    parser.add_argument("--keep", action="store_true", help="leave it there even if everything held")
    return parser.parse_args(words)


def seeds(text: str) -> list[int]:
    first, _, last = text.partition("..")
    return list(range(int(first), int(last or first) + 1))


def faults(text: str) -> list[str]:
    names = list(CATALOG) if text == "all" else text.split(",")
    unknown = [name for name in names if name not in CATALOG]
    if unknown:
        raise argparse.ArgumentTypeError(f"no such fault: {', '.join(unknown)}")
    return names


def repeat(arguments: argparse.Namespace, seed: int) -> str:
    """The command that does the same again."""
    words = ["python -m tests.chaos", f"--scenario {arguments.scenario}", f"--members {arguments.members}"]
    words += [f"--seed {seed}", f"--seconds {arguments.seconds:g}", f"--rate {arguments.rate:g}"]
    if arguments.times is not None:
        words.append(f"--times {arguments.times}")
    if arguments.faults != list(CATALOG):
        words.append(f"--faults {','.join(arguments.faults)}")
    return " ".join(words)


def say(line: str) -> None:
    print(line, flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends a run as ctrl-C does: with nothing left behind. Once: what it leaves to do is done."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

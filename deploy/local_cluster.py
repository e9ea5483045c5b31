"""Runs three members on this machine, for trying things out: `make cluster`.

Clients on localhost:2379, 22379 and 32379; data under ./local-cluster, kept until it is deleted. Ctrl-C stops all.
"""

import asyncio
import shlex
import signal
import socket
import sys
import urllib.error
import urllib.request
from asyncio.subprocess import PIPE, STDOUT, Process
from dataclasses import dataclass
from pathlib import Path

DATA = Path("local-cluster")
READY_SECONDS = 60.0
STOP_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where one member runs."""

    name: str
    client_port: int
    peer_port: int

    @property
    def client_url(self) -> str:
        return f"http://127.0.0.1:{self.client_port}"

    @property
    def peer_url(self) -> str:
        return f"http://127.0.0.1:{self.peer_port}"


PLACES = (Place("m1", 2379, 2380), Place("m2", 22379, 22380), Place("m3", 32379, 32380))


def command(place: Place) -> list[str]:
    """What starts a member."""
    return [
        *(sys.executable, "-m", "kvstored", f"--name={place.name}", f"--data-dir={DATA / place.name}"),
        *(f"--listen-client-urls={place.client_url}", f"--advertise-client-urls={place.client_url}"),
        *(f"--listen-peer-urls={place.peer_url}", f"--initial-advertise-peer-urls={place.peer_url}"),
        f"--initial-cluster={','.join(f'{other.name}={other.peer_url}' for other in PLACES)}",
        "--initial-cluster-token=local-cluster",
        "--log-format=console",
    ]


def taken_ports() -> list[int]:
    """Those of the cluster's ports that somebody else listens on."""
    taken = []
    for port in (port for place in PLACES for port in (place.client_port, place.peer_port)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                taken.append(port)
    return taken


async def start(place: Place) -> Process:
    # In a session of its own: Ctrl-C is then not sent to the members as well, who take a second signal as "at once".
    return await asyncio.create_subprocess_exec(*command(place), stdout=PIPE, stderr=STDOUT, start_new_session=True)


async def relay(place: Place, process: Process) -> None:
    """Print what a member prints, and that it ended."""
    assert process.stdout is not None
    async for line in process.stdout:
        print(f"{place.name} | {line.decode(errors='replace').rstrip()}", flush=True)
    print(f"{place.name} | ended with exit code {await process.wait()}", flush=True)


def is_ready(place: Place) -> bool:
    try:
        with urllib.request.urlopen(f"{place.client_url}/readyz", timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


async def wait_until_ready() -> bool:
    """Whether every member serves clients within READY_SECONDS."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + READY_SECONDS
    for place in PLACES:
        while not await asyncio.to_thread(is_ready, place):
            if loop.time() > deadline:
                return False
            await asyncio.sleep(0.1)
    return True


async def announce() -> None:
    for place in PLACES:
        print(f"{place.name}: {shlex.join(command(place))}", flush=True)
    if not await wait_until_ready():
        print(f"not every member was ready within {READY_SECONDS:.0f} s", flush=True)
        return
    endpoints = ",".join(f"127.0.0.1:{place.client_port}" for place in PLACES)
    print(f"ready; data in {DATA}/, Ctrl-C stops all members. Try:", flush=True)
    print(f"  .venv/bin/kvctl --endpoints={endpoints} endpoint status -w table", flush=True)
    print(f"  ETCDCTL_API=3 etcdctl --endpoints={endpoints} endpoint status -w table", flush=True)


async def stop_all(processes: list[Process]) -> None:
    running = [process for process in processes if process.returncode is None]
    for process in running:
        process.terminate()
    waits = [asyncio.create_task(process.wait()) for process in running]
    if waits:
        await asyncio.wait(waits, timeout=STOP_SECONDS)
    for process in running:
        if process.returncode is None:
            process.kill()


async def main() -> int:
    """Run the cluster until a signal, or until its last member ends. The exit code."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if taken := taken_ports():
        print(f"in use already: {', '.join(map(str, taken))}; stop what listens there (make run?) first", flush=True)
        return 1
    processes = [await start(place) for place in PLACES]
    relays = [asyncio.create_task(relay(*pair)) for pair in zip(PLACES, processes, strict=True)]
    announcement = asyncio.create_task(announce())
    stopping = asyncio.create_task(stop.wait())
    all_ended = asyncio.create_task(asyncio.wait(relays))
    await asyncio.wait([stopping, all_ended], return_when=asyncio.FIRST_COMPLETED)
    announcement.cancel()
    await stop_all(processes)
    await asyncio.wait(relays)
    return 0 if stop.is_set() else 1


if __name__ == "__main__":
    DATA.mkdir(exist_ok=True)
    sys.exit(asyncio.run(main()))

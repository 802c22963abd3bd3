#!/usr/bin/env python3
"""The same calls over oslo.messaging on RabbitMQ and over our RPC, in turn; one JSON line a figure.

Starts RabbitMQ, etcd, and a server and a client of each kind on loopback, each a process of its own, then
measures in rounds: a window of the peer, of ours, and of plain tonic, and again. Nothing is tuned.
`make bench-peers` builds and installs what it needs; docs/performance-peers.md explains the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import figures
from figures import FLOOR, OURS, Window
from processes import TICKS_PER_SECOND, Processes, Worker, cpu_seconds, free_ports, start_broker, start_etcd

ROOT = Path(__file__).resolve().parents[3]
PEER = Path(__file__).with_name("oslo_peer.py")
PACKAGE = ROOT / ".tools/rabbitmq"
PAYLOADS = {"flat": "200 B flat", "nested": "2,450 B nested"}
EXECUTORS = {1: ("threading",), 64: ("threading", "eventlet")}
SUBSCRIBERS = (1, 10, 50)
# The first updates make the exchange and the queues ready.
FIRST_UPDATES = 3
GAP_SECONDS = 0.4
# What others may use of the machine while it counts as quiet.
QUIET_CORES = 0.2
LIBRARIES = ("oslo.messaging", "kombu", "amqp", "oslo.service", "futurist", "eventlet", "cotyledon")
CRATES = ("tonic", "hyper", "h2", "prost", "tokio")


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rounds: int
    seconds: float
    updates: int
    subscribers_per_process: int
    attempts: int
    quiet_seconds: float


FULL = Size(rounds=5, seconds=3, updates=30, subscribers_per_process=1, attempts=2, quiet_seconds=10)
QUICK = Size(rounds=2, seconds=2, updates=10, subscribers_per_process=10, attempts=1, quiet_seconds=2)


@dataclass(frozen=True)
class Side:
    """A client, and all the processes its calls pass through."""

    client: Worker
    pids: tuple[int, ...]

    def cpu_seconds(self) -> float:
        """Return what they have used so far."""
        return sum(map(cpu_seconds, self.pids))


def figure(name: str, values: object) -> None:
    """Print one figure."""
    print(json.dumps({"figure": name, "values": values}), flush=True)


def busy_seconds() -> float:
    """Return the CPU time all of the machine has used: user, nice, system and interrupts."""
    with Path("/proc/stat").open() as stat:
        fields = [int(field) for field in stat.readline().split()[1:]]
    return sum(fields[n] for n in (0, 1, 2, 5, 6)) / TICKS_PER_SECOND


def wait_quiet(seconds: float) -> None:
    """Wait at most this long for half a second in which the machine does next to nothing else."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        before = busy_seconds()
        time.sleep(0.5)
        if (busy_seconds() - before) / 0.5 <= QUIET_CORES:
            return


@contextmanager
def favoured() -> Iterator[None]:
    """Prefer both sides alike to other sessions on this machine, where that is allowed (as root)."""
    group = Path("/proc/self/autogroup")
    nice = None
    with suppress(OSError):
        nice = group.read_text().split()[-1]
        group.write_text("-10")
    try:
        yield
    finally:
        with suppress(OSError):
            if nice is not None:
                group.write_text(nice)


def measure(side: Side, payload: str, in_flight: int, size: Size) -> Window:
    """Measure one window of one side: the first while the machine did little else, or the quietest."""
    best = None
    for _ in range(size.attempts):
        wait_quiet(size.quiet_seconds)
        all_before, before = busy_seconds(), side.cpu_seconds()
        found = side.client.ask(payload=payload, in_flight=in_flight, seconds=size.seconds)
        used, all_used = side.cpu_seconds() - before, busy_seconds() - all_before
        others = max(0.0, all_used - used) / found["seconds"]
        window = Window(**found, cpu_seconds=used, others_cores=others)
        if best is None or window.others_cores < best.others_cores:
            best = window
        if best.others_cores <= QUIET_CORES:
            break
    assert best is not None
    return best


def calls(sides: dict[str, Side], payload: str, in_flight: int, size: Size) -> None:
    """Measure calls: the peer and ours in turn in every round, so that a slow minute is everybody's."""
    windows: dict[str, list[Window]] = {name: [] for name in (*EXECUTORS[in_flight], OURS, FLOOR)}
    for _ in range(size.rounds):
        for name, found in windows.items():
            found.append(measure(sides[name], payload, in_flight, size))
    values = figures.calls(windows)
    figure(f"call, {PAYLOADS[payload]}, {in_flight} in flight", values)
    for budget in figures.BUDGETS:
        if budget.in_flight == in_flight:
            title = f"budget: {budget.name}, {PAYLOADS[payload]}, {in_flight} in flight"
            figure(title, figures.budget(budget, values))


def fan_out(processes: Processes, broker: int, url: str, count: int, size: Size) -> None:
    """Measure one cast to so many subscribers; ours is measured by `make bench-fanout`."""
    topic = f"fan-out-{count}"
    subscribers = [f"subscriber-{n}" for n in range(count)]
    step = size.subscribers_per_process
    groups = [subscribers[n : n + step] for n in range(0, count, step)]
    servers = [peer(processes, "serve", url, "threading", topic, ",".join(group)) for group in groups]
    for server in servers:
        server.ready()
    client = peer(processes, "call", url, "threading", topic).ready()
    side = Side(client, (broker, client.pid, *(server.pid for server in servers)))
    wait_quiet(size.quiet_seconds)
    idle_seconds = size.updates * GAP_SECONDS / 2
    before = side.cpu_seconds()
    time.sleep(idle_seconds)
    idle_cores = (side.cpu_seconds() - before) / idle_seconds
    start, before = time.monotonic(), side.cpu_seconds()
    client.ask(casts=size.updates, gap=GAP_SECONDS)
    used = side.cpu_seconds() - before - idle_cores * (time.monotonic() - start)
    deliveries = [delivery for server in servers for delivery in server.ask()["deliveries"]]
    values = figures.fan_out(deliveries, count, FIRST_UPDATES, used, size.updates)
    values["subscriber_processes"] = len(servers)
    figure(f"fan-out over RabbitMQ to {count}", values)
    for worker in (client, *servers):
        worker.stop()


def peer(processes: Processes, *arguments: str) -> Worker:
    """Start a process of the peer's."""
    verb, _, executor, topic, *_ = arguments
    command = [sys.executable, "-W", "ignore", str(PEER), *arguments]
    return Worker(processes, f"{topic}-{executor}-{verb}", command)


def echo_peer(processes: Processes, options: argparse.Namespace, verb: str, address: str) -> Worker:
    """Start a process of ours, or of plain tonic."""
    command = [str(options.echo_peer), verb, address, options.log_level]
    return Worker(processes, f"echo-peer-{verb}", command).ready()


def versions(etcd: str, options: argparse.Namespace) -> dict[str, object]:
    """Return what is compared, and on what."""
    lock = (ROOT / "Cargo.lock").read_text()
    crates = {name: re.search(rf'name = "{name}"\nversion = "(.+)"', lock) for name in CRATES}
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    rabbitmq = next(PACKAGE.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*")).name.rpartition("-")[2]
    erlang = next(PACKAGE.glob("usr/lib/erlang/releases/*/OTP_VERSION")).read_text().strip()
    return {
        "kilonova": output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
        "rust": output("rustc", "--version"),
        "log_level": options.log_level,
        **{name: found[1] for name, found in crates.items() if found},
        "etcd": output(etcd, "--version").splitlines()[0],
        "rabbitmq": rabbitmq,
        "erlang": erlang,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in LIBRARIES},
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "cpu": cpu[1] if cpu else platform.machine(),
    }


def output(*command: str) -> str:
    """Return what a command says, or that it cannot."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def run(options: argparse.Namespace, etcd: str, size: Size, folder: Path) -> None:
    """Start everything, measure, end everything."""
    with Processes(folder) as processes:
        broker, url = start_broker(processes, PACKAGE)
        sides = {}
        for executor in EXECUTORS[64]:
            topic = f"echo-{executor}"
            server = peer(processes, "serve", url, executor, topic, "server").ready()
            client = peer(processes, "call", url, executor, topic).ready()
            sides[executor] = Side(client, (client.pid, server.pid, broker))
        store, address = start_etcd(processes, etcd)
        server, client = (echo_peer(processes, options, verb, address) for verb in ("serve", "call"))
        sides[OURS] = Side(client, (client.pid, server.pid, store))
        address = f"127.0.0.1:{free_ports(1)[0]}"
        server, client = (echo_peer(processes, options, verb, address) for verb in ("raw-serve", "raw-call"))
        sides[FLOOR] = Side(client, (client.pid, server.pid))
        for payload in PAYLOADS:
            for in_flight in EXECUTORS:
                calls(sides, payload, in_flight, size)
        for side in sides.values():
            side.client.stop()
        for count in SUBSCRIBERS:
            fan_out(processes, broker, url, count, size)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "size", nargs="?", choices=("full", "quick"), default="full", help="how much is measured"
    )
    parser.add_argument(
        "--echo-peer", type=Path, required=True, metavar="PATH", help="our program, in a release build"
    )
    parser.add_argument(
        "--log-level",
        default="info,kilonova::access=off",
        help="of our program; `info` logs a line for every call",
    )
    return parser.parse_args(argv)


def main() -> int:
    """Run the benchmark and return the exit code."""
    options = arguments()
    etcd = shutil.which("etcd")
    if etcd is None or not PACKAGE.is_dir():
        print(f"SKIPPED: {'rabbitmq' if etcd else 'etcd'} not found")
        return 0
    # Being asked to stop ends the children too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    figure("versions", versions(etcd, options))
    with favoured(), tempfile.TemporaryDirectory(prefix="kilonova-peers-") as folder:
        run(options, etcd, QUICK if options.size == "quick" else FULL, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())

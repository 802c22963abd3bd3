"""What a run starts: the broker, etcd, and workers; each ended by its own pid."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

START_SECONDS = 120
STOP_SECONDS = 20
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def free_ports(count: int) -> list[int]:
    """Return this many loopback ports that nothing listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def listens(port: int) -> bool:
    """Tell whether somebody takes connections there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def cpu_seconds(pid: int) -> float:
    """Return the user and system time a process has used, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


class Processes:
    """All children of one run; leaving the `with` block ends them, the last one first."""

    def __init__(self, folder: Path) -> None:
        """Keep logs and data in this folder."""
        self.folder = folder
        self._children: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Processes:
        """Nothing is started yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """End what still runs."""
        while self._children:
            self.stop(self._children[-1])

    def start(self, name: str, command: list[str], **environment: str) -> subprocess.Popen[str]:
        """Start a command, out of reach of the terminal's Ctrl-C: it is ended in order, not all at once."""
        with (self.folder / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **environment},
                preexec_fn=os.setpgrp,
            )
        self._children.append(child)
        return child

    def stop(self, child: subprocess.Popen[str]) -> None:
        """End one: workers end with their input, the others when asked."""
        self._children.remove(child)
        assert child.stdin is not None
        with suppress(BrokenPipeError):
            child.stdin.close()
        for ask in (None, signal.SIGTERM, signal.SIGKILL):
            if ask is not None:
                child.send_signal(ask)
            try:
                child.wait(STOP_SECONDS if ask else 2)
            except subprocess.TimeoutExpired:
                continue
            return

    def log(self, name: str) -> str:
        """Return the end of a log."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]

    def wait(self, name: str, child: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
        """Wait until it is ready."""
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} does not start (exit code {child.poll()}): {self.log(name)}")
            time.sleep(0.1)


class Worker:
    """A process that answers each JSON line with one."""

    def __init__(self, processes: Processes, name: str, command: list[str]) -> None:
        """Start it; `ready` waits."""
        self._processes = processes
        self._name = name
        self._child = processes.start(name, command)
        self.pid = self._child.pid

    def _line(self) -> str:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} ended: {self._processes.log(self._name)}")
        return line

    def ready(self) -> Worker:
        """Wait until it says so."""
        while self._line().strip() != "READY":
            pass
        return self

    def ask(self, **request: object) -> dict[str, Any]:
        """Ask and return the answer."""
        assert self._child.stdin is not None
        # One that has ended is found, with its log, where its answer is read.
        with suppress(BrokenPipeError):
            self._child.stdin.write(json.dumps(request) + "\n")
            self._child.stdin.flush()
        return json.loads(self._line())

    def stop(self) -> None:
        """End it."""
        self._processes.stop(self._child)


def start_etcd(processes: Processes, program: str) -> tuple[int, str]:
    """Start etcd as it comes; return its pid and its address."""
    client, peer = (f"127.0.0.1:{port}" for port in free_ports(2))
    urls = {
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"default=http://{peer}",
    }
    command = [program, "--data-dir", str(processes.folder / "etcd")]
    for option, value in urls.items():
        command += [f"--{option}", value if "=" in value else f"http://{value}"]
    child = processes.start("etcd", command)
    processes.wait("etcd", child, lambda: listens(int(client.split(":")[1])))
    return child.pid, client


def start_broker(processes: Processes, package: Path) -> tuple[int, str]:
    """Start RabbitMQ as it comes, with an epmd of its own; return the pid of its machine and its URL."""
    amqp, distribution, names = free_ports(3)
    folder = processes.folder / "rabbitmq"
    folder.mkdir()
    empty = folder / "empty"
    empty.touch()
    erlang = package / "usr/lib/erlang"
    # Taken from the settings of this broker alone, never from the machine's.
    environment: Mapping[str, str] = {
        "PATH": f"{erlang}/bin:{os.environ['PATH']}",
        "HOME": str(folder),
        "ERL_EPMD_PORT": str(names),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": "peer@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(amqp),
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_CONFIG_FILE": str(folder / "none"),
        "RABBITMQ_CONF_ENV_FILE": str(empty),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput -kernel inet_dist_use_interface {127,0,0,1}",
        # The script then becomes the broker instead of watching over it, so the pid is the broker's.
        "RABBITMQ_ALLOW_INPUT": "1",
    }
    epmd = processes.start("epmd", [str(next(erlang.glob("erts-*/bin/epmd")))], **environment)
    processes.wait("epmd", epmd, lambda: listens(names))
    script = next(package.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"))
    child = processes.start("rabbitmq", [str(script)], **environment)
    processes.wait("rabbitmq", child, lambda: listens(amqp))
    return child.pid, f"rabbit://guest:guest@127.0.0.1:{amqp}//"

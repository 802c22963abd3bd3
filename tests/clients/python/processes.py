"""Processes this test starts: each with a name and a log, every one ended by its own pid."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

LOG_TAIL_LINES = 25


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


@dataclass
class Process:
    """One running child."""

    name: str
    child: subprocess.Popen[bytes]
    log: Path

    def running(self) -> bool:
        """Tell whether it has not ended yet."""
        return self.child.poll() is None

    def tail(self) -> str:
        """Return the end of its log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self.child.kill()
        self.child.wait()

    def terminate(self) -> None:
        """Ask it to stop; `wait` says how it went."""
        if self.running():
            self.child.send_signal(signal.SIGTERM)

    def wait(self, timeout: float) -> int | None:
        """Return its exit code, or None if it is still there after the timeout."""
        try:
            return self.child.wait(timeout)
        except subprocess.TimeoutExpired:
            return None


class ProcessGroup:
    """All children of one test run; leaving the `with` block ends those that are left."""

    def __init__(self, log_dir: Path) -> None:
        """Keep the logs in this folder."""
        self._log_dir = log_dir
        self.processes: list[Process] = []

    def __enter__(self) -> ProcessGroup:
        """Nothing is started yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """End what still runs."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            if process.wait(10) is None:
                process.kill()

    def start(self, name: str, command: list[str]) -> Process:
        """Start a command without any of the caller's own KILONOVA_ settings, in a session of its own."""
        log = self._log_dir / f"{name}.log"
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("KILONOVA_", "ETCD_"))}
        with log.open("ab") as output:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        process = Process(name, child, log)
        self.processes.append(process)
        return process

    def tails(self) -> str:
        """Return the ends of all logs, for a failure report."""
        return "\n".join(f"--- {p.name} (exit code {p.child.poll()})\n{p.tail()}" for p in self.processes)

"""The processes of one cell: etcd, and every service more than once where that is how it is run."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from processes import Process, ProcessGroup, free_ports
from waiting import HopelessError, wait_for

MEMBERS = {
    "conductor": ["c1", "c2"],
    "scheduler": ["s1", "s2"],
    "compute": ["n1", "n2", "n3"],
    "volume": ["b1@simulated", "b2@simulated"],
    "api": ["a1"],
}
READY_SECONDS = 60


@dataclass
class Member:
    """One running service process."""

    service: str
    host: str
    address: str
    http_address: str
    data_dir: Path
    process: Process


class Cluster:
    """A running cell on loopback."""

    def __init__(self, kilonova: Path, group: ProcessGroup, data_dir: Path) -> None:
        """Start everything; `wait_ready` says when it works."""
        self._kilonova = kilonova
        self._group = group
        self._data_dir = data_dir
        # The gRPC and the HTTP port of each member, and etcd's two.
        ports = free_ports(2 + 2 * sum(map(len, MEMBERS.values())))
        self.etcd_address = f"http://127.0.0.1:{ports.pop()}"
        self._start_etcd(peer_port=ports.pop())
        self.members = [
            self._start_member(service, host, ports.pop(), ports.pop())
            for service, hosts in MEMBERS.items()
            for host in hosts
        ]

    def member(self, service: str, host: str) -> Member:
        """Return one member by name."""
        return next(m for m in self.members if (m.service, m.host) == (service, host))

    def of(self, service: str) -> list[Member]:
        """Return the members of one service."""
        return [m for m in self.members if m.service == service]

    @property
    def api_address(self) -> str:
        """Where the public API listens."""
        return self.of("api")[0].address

    def wait_ready(self) -> None:
        """Wait until every member calls itself ready."""
        for member in self.members:
            wait_for(
                f"{member.service} {member.host} to be ready", lambda m=member: self._ready(m), READY_SECONDS
            )

    def _ready(self, member: Member) -> bool:
        if not member.process.running():
            raise HopelessError(f"{member.process.name} ended:\n{member.process.tail()}")
        with urllib.request.urlopen(f"http://{member.http_address}/readyz", timeout=2) as answer:
            return answer.status == 200

    def _start_etcd(self, peer_port: int) -> None:
        peer = f"http://127.0.0.1:{peer_port}"
        self._group.start(
            "etcd",
            [
                "etcd",
                "--name=e1",
                f"--data-dir={self._data_dir / 'etcd'}",
                f"--listen-client-urls={self.etcd_address}",
                f"--advertise-client-urls={self.etcd_address}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=e1={peer}",
            ],
        )
        wait_for("etcd to be healthy", self._etcd_healthy, READY_SECONDS)

    def _etcd_healthy(self) -> bool:
        with urllib.request.urlopen(f"{self.etcd_address}/health", timeout=2) as answer:
            return str(json.load(answer)["health"]).lower() == "true"

    def _start_member(self, service: str, host: str, port: int, http_port: int) -> Member:
        address, http_address = f"127.0.0.1:{port}", f"127.0.0.1:{http_port}"
        data_dir = self._data_dir / f"{service}-{host}"
        data_dir.mkdir()
        command = [
            str(self._kilonova),
            service,
            *("--host", host),
            *("--listen", address),
            *("--http-listen", http_address),
            *("--store", "etcd"),
            *("--etcd-endpoints", self.etcd_address),
            *("--data-dir", str(data_dir)),
        ]
        process = self._group.start(f"{service}-{host}", command)
        return Member(service, host, address, http_address, data_dir, process)

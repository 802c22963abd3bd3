"""A thin hand on grpcurl."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import Any

DEADLINE_SECONDS = 20

# grpcurl exits with 64 plus the gRPC code of the failed call.
EXIT_CODE_BASE = 64


@dataclass
class Answer:
    """What grpcurl printed and how it ended."""

    exit_code: int
    stdout: str
    stderr: str

    def json(self) -> Any:  # noqa: ANN401  # JSON is anything
        """Return the response message."""
        assert self.exit_code == 0, self.stderr
        return json.loads(self.stdout)

    def lines(self) -> list[str]:
        """Return the printed lines."""
        assert self.exit_code == 0, self.stderr
        return self.stdout.splitlines()

    def code(self) -> int:
        """Return the gRPC status code."""
        return max(0, self.exit_code - EXIT_CODE_BASE)


class Grpcurl:
    """Calls one address, knowing nothing of the protos but what reflection tells."""

    def __init__(self, address: str) -> None:
        """Talk to this address in plain text."""
        self._address = address

    def run(self, *arguments: str, before: tuple[str, ...] = ()) -> Answer:
        """Run grpcurl with these arguments after the address, and flags before it."""
        command = [
            "grpcurl",
            "-plaintext",
            "-max-time",
            str(DEADLINE_SECONDS),
            *before,
            self._address,
            *arguments,
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=DEADLINE_SECONDS + 10, check=False
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def call(self, method: str, request: dict[str, Any]) -> Answer:
        """Call a method with a request in JSON."""
        return self.run(method, before=("-emit-defaults", "-format-error", "-d", json.dumps(request)))

"""What the checks share: the running cell, ways to talk to it, and what was made so far."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from api import Api
from cluster import Cluster
from grpcurl import Grpcurl

FLAVOR = "test.small"
HUGE_FLAVOR = "test.huge"
IMAGE = "test-image"
PROJECT = "process-test"

# How many requests are under way at once where a check sends many.
CONCURRENCY = 16


@dataclass
class World:
    """The state of one test run."""

    cluster: Cluster
    api: Api
    grpcurl: Grpcurl
    # Instances that ran, and must be found spawned once and destroyed once in the journals.
    instances: list[str] = field(default_factory=list)
    # Instances that never fitted anywhere, and must not be in any journal.
    unplaced: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(CONCURRENCY))

    def close(self) -> None:
        """Give threads and connections back."""
        self.pool.shutdown(cancel_futures=True)
        self.api.close()

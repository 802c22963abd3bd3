"""From windows to figures: medians over the rounds, ratios of the windows of one round, and the budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

OURS = "kilonova"
# The same messages over plain tonic: what no layer on top of it can beat.
FLOOR = "tonic"


@dataclass(frozen=True)
class Window:
    """What one side did in a few seconds."""

    calls: int
    seconds: float
    p50_us: float
    p99_us: float
    cpu_seconds: float
    others_cores: float

    @property
    def calls_per_s(self) -> float:
        """The throughput."""
        return self.calls / self.seconds

    @property
    def cpu_s_per_10k(self) -> float:
        """The cost, of all the processes a call passes through."""
        return self.cpu_seconds / self.calls * 10_000


@dataclass(frozen=True)
class Budget:
    """At least so many times better than the peer."""

    name: str
    in_flight: int
    ratio: str
    must: float
    aim: float


BUDGETS = (
    Budget("p50", 1, "p50", 10, 13),
    Budget("calls per second", 64, "calls_per_s", 50, 100),
    Budget("CPU per call", 64, "cpu", 60, 110),
)


def rounded(value: float) -> float:
    """Return about three digits."""
    return float(f"{value:.3g}") if abs(value) < 100 else round(value)


def side(windows: Sequence[Window]) -> dict[str, float]:
    """Return the medians of one side."""

    def middle(name: str) -> float:
        return rounded(median(getattr(one, name) for one in windows))

    names = ("p50_us", "p99_us", "calls_per_s", "cpu_s_per_10k", "others_cores")
    return {name: middle(name) for name in names}


def faster(peers: dict[str, list[Window]]) -> str:
    """Return the name of the peer that got more calls through."""
    return max(peers, key=lambda name: median(one.calls_per_s for one in peers[name]))


def ratios(peer: Sequence[Window], ours: Sequence[Window]) -> dict[str, dict[str, float]]:
    """Return by how much ours is better; each ratio is of two windows of the same round."""
    rounds = list(zip(peer, ours, strict=True))
    found = {
        "p50": [p.p50_us / o.p50_us for p, o in rounds],
        "p99": [p.p99_us / o.p99_us for p, o in rounds],
        "calls_per_s": [o.calls_per_s / p.calls_per_s for p, o in rounds],
        "cpu": [p.cpu_s_per_10k / o.cpu_s_per_10k for p, o in rounds],
    }
    return {
        name: {"median": rounded(median(all_)), "least": rounded(min(all_)), "most": rounded(max(all_))}
        for name, all_ in found.items()
    }


def calls(windows: dict[str, list[Window]]) -> dict[str, Any]:
    """Return the figure of one payload and number in flight."""
    peers = {name: found for name, found in windows.items() if name not in (OURS, FLOOR)}
    return {
        "rounds": len(windows[OURS]),
        "peer": {name: side(found) for name, found in peers.items()},
        "ours": side(windows[OURS]),
        "plain_tonic": side(windows[FLOOR]),
        "better_by": {name: ratios(found, windows[OURS]) for name, found in peers.items()},
        "plain_tonic_better_by": {name: ratios(found, windows[FLOOR]) for name, found in peers.items()},
        "faster_peer": faster(peers),
    }


def budget(budget: Budget, found: dict[str, Any]) -> dict[str, Any]:
    """Return whether a budget holds, by the median against the faster peer."""
    peer = found["faster_peer"]
    value = found["better_by"][peer][budget.ratio]["median"]
    return {
        "must": budget.must,
        "aim": budget.aim,
        "is": value,
        "plain_tonic_is": found["plain_tonic_better_by"][peer][budget.ratio]["median"],
        "against": peer,
        "holds": value >= budget.must,
    }


def fan_out(
    deliveries: Sequence[tuple[int, float]], subscribers: int, skip: int, cpu_seconds: float, casts: int
) -> dict[str, Any]:
    """Return when the last subscriber had each update, without the first few and those not all got."""
    by_update: dict[int, list[float]] = {}
    for number, took in deliveries:
        by_update.setdefault(number, []).append(took)
    whole = [took for number, took in by_update.items() if number >= skip and len(took) == subscribers]
    if not whole:
        raise RuntimeError(f"no update reached all {subscribers} subscribers")
    return {
        "subscribers": subscribers,
        "updates": len(whole),
        "last_p50_ms": rounded(median(max(took) for took in whole) * 1e3),
        "last_worst_ms": rounded(max(max(took) for took in whole) * 1e3),
        "cpu_ms_per_update": rounded(cpu_seconds / casts * 1e3),
    }

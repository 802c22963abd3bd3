"""The one place that polls: wait for a value, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

INTERVAL_SECONDS = 0.05
# How many times as long as usual a slow machine with one core takes.
SLOWEST = 4


class WaitTimeout(AssertionError):
    """What was waited for did not come in time."""


class HopelessError(AssertionError):
    """What is waited for can no longer come; raised by a probe to end the wait at once."""


def wait_for(what: str, probe: Callable[[], Value | None], timeout: float) -> Value:
    """Call `probe` until it returns something true, and return that.

    `timeout` is in seconds on a machine of the usual pace. A probe that raises an exception counts as "not
    yet", and the last one is named when time is up; only `HopelessError` ends the wait.
    """
    timeout *= SLOWEST
    deadline = time.monotonic() + timeout
    last: object = None
    while True:
        try:
            value = probe()
            if value:
                return value
            last = value
        except HopelessError:
            raise
        except Exception as error:  # whatever goes wrong while something starts or moves
            last = error
        if time.monotonic() >= deadline:
            raise WaitTimeout(f"after {timeout:g} s still waiting for {what}; last: {last!r}")
        time.sleep(INTERVAL_SECONDS)

"""Runs checks one after the other and counts."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Report:
    """What was run so far."""

    passed: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)

    def run(self, title: str, check: Callable[[], None]) -> bool:
        """Run one check, print how it went, and tell whether it passed."""
        start = time.monotonic()
        try:
            check()
        except Exception:
            self.failed += 1
            self.failures.append(title)
            print(f"FAILED  {title} ({time.monotonic() - start:.1f} s)", flush=True)
            print(traceback.format_exc(), flush=True)
            return False
        self.passed += 1
        print(f"ok      {title} ({time.monotonic() - start:.1f} s)", flush=True)
        return True

    def summary(self) -> str:
        """Return the line that scripts read."""
        return f"{self.passed} passed, {self.failed} failed"

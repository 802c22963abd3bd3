#!/usr/bin/env python3
"""Break the code in one place after another and require that a test fails each time.

Works on a copy of what is committed, with a target folder of its own. `make mutants` runs all, `make mutants
ARGS=fence` those whose name has that word.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
# A mutant may make a test wait for ever.
LIMIT_SECONDS = 600


def cargo_test(tree: Path, tests: tuple[str, ...], *more: str) -> subprocess.CompletedProcess[str]:
    """Run some tests of the copy; what comes first as `NAME=value` is set for them."""
    # Each is built once: without what debuggers need that takes half the time and room.
    build = {"CARGO_TARGET_DIR": str(ROOT / "target/mutants"), "CARGO_PROFILE_DEV_DEBUG": "0"}
    environment = {**os.environ, **build}
    while "=" in tests[0]:
        name, _, value = tests[0].partition("=")
        environment[name] = value
        tests = tests[1:]
    command = ["cargo", "test", "--quiet", *tests[:2], *more, *tests[2:]]
    return subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS
    )


def verdict(tree: Path, mutant: Mutant) -> str:
    """Break the copy, see what the tests say, and mend it."""
    file = tree / mutant.file
    whole = file.read_text()
    if whole.count(mutant.text) != 1:
        return f"STALE: the text occurs {whole.count(mutant.text)} times in {mutant.file}"
    file.write_text(whole.replace(mutant.text, mutant.instead))
    try:
        built = cargo_test(tree, mutant.tests, "--no-run")
        if built.returncode != 0:
            return "STALE: it does not build\n" + built.stderr[-2000:]
        ran = cargo_test(tree, mutant.tests)
    except subprocess.TimeoutExpired:
        return "caught: the tests do not end"
    finally:
        file.write_text(whole)
    if ran.returncode == 0:
        return "SURVIVED: every test passes"
    # The names of what failed stand below the last such line.
    _, _, names = ran.stdout.rpartition("\nfailures:\n")
    failed = [line.strip() for line in names.splitlines() if line.startswith("    ")]
    return "caught by " + (", ".join(failed) if failed else "a test that broke off")


def main() -> int:
    """Run the mutants asked for and return the exit code."""
    words = sys.argv[1:]
    chosen = [one for one in MUTANTS if all(word in one.name for word in words)]
    with tempfile.TemporaryDirectory(prefix="kilonova-mutants-") as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(tree)], check=True)
        for tests in dict.fromkeys(one.tests for one in chosen):
            whole = cargo_test(tree, tests)
            if whole.returncode != 0:
                said = whole.stdout[-2000:] + whole.stderr[-2000:]
                print(f"the tests fail unbroken: {' '.join(tests)}\n{said}")
                return 1
        bad = 0
        for mutant in chosen:
            start = time.monotonic()
            found = verdict(tree, mutant)
            bad += not found.startswith("caught")
            print(f"{mutant.name}: {found} ({time.monotonic() - start:.0f} s)", flush=True)
    print(f"{len(chosen) - bad} passed, {bad} failed")
    return 1 if bad or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""The process test: a whole cell as real processes, driven by a generated client and by grpcurl.

Starts etcd and every service (several of most), runs the checks in order, ends every process it started,
and prints a line `N passed, N failed`. The exit code is 0 only when nothing failed. It needs etcd and
grpcurl on the PATH and the packages of requirements.txt: `deploy/dev/bootstrap.sh test` brings them, and
`make test` does everything.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import stubs
from processes import ProcessGroup
from report import Report


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--kilonova", type=Path, required=True, metavar="PATH", help="the kilonova program to test"
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep data and logs in this new folder")
    parsed = parser.parse_args()
    parsed.kilonova = parsed.kilonova.resolve()
    if not parsed.kilonova.is_file():
        parser.error(f"there is no program {parsed.kilonova}: cargo build -p kilonova makes it")
    for program in ("etcd", "grpcurl"):
        if shutil.which(program) is None:
            parser.error(f"{program} is not on the PATH: deploy/dev/bootstrap.sh test puts it in .tools/bin")
    return parsed


def run(kilonova: Path, data_dir: Path, report: Report) -> None:
    """Start the cell and run every check; a cell that does not start is one failure."""
    # These modules import the generated client, which exists only now.
    import checks
    from api import Api
    from cluster import Cluster
    from grpcurl import Grpcurl
    from world import World

    log_dir = data_dir / "log"
    log_dir.mkdir()
    with ProcessGroup(log_dir) as group:
        worlds: list[World] = []

        def start() -> None:
            cluster = Cluster(kilonova, group, data_dir)
            cluster.wait_ready()
            worlds.append(World(cluster, Api(cluster.api_address), Grpcurl(cluster.api_address)))

        try:
            if report.run("Start: etcd and ten services are ready", start):
                for check in checks.ALL:
                    report.run(
                        (check.__doc__ or check.__name__).strip().rstrip("."), lambda c=check: c(worlds[0])
                    )
            if report.failed:
                print(group.tails(), flush=True)
        finally:
            for world in worlds:
                world.close()


def main() -> int:
    """Run the test and return the exit code."""
    options = arguments()
    # Being asked to stop ends the children too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    report = Report()
    with tempfile.TemporaryDirectory(prefix="kilonova-test-") as temporary:
        generated = Path(temporary) / "client"
        generated.mkdir()
        stubs.generate(generated)
        data_dir = options.keep or Path(temporary) / "data"
        data_dir.mkdir(parents=True)
        run(options.kilonova, data_dir, report)
    for title in report.failures:
        print(f"failed: {title}")
    print(report.summary())
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())

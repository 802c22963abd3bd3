"""Makes the Python client from the protos, as any user of the API would, and puts it on the import path."""

from __future__ import annotations

import sys
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

PROTO_DIR = Path(__file__).resolve().parents[3] / "proto"


def generate(out: Path) -> None:
    """Generate messages and stubs of every package below proto/ into `out`, and make them importable."""
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    files = sorted(str(path.relative_to(PROTO_DIR)) for path in PROTO_DIR.rglob("*.proto"))
    arguments = [
        "protoc",
        f"-I{PROTO_DIR}",
        f"-I{well_known}",
        f"--python_out={out}",
        f"--grpc_python_out={out}",
        *files,
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc could not generate the Python client from proto/")
    sys.path.insert(0, str(out))

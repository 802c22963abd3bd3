"""The lines of the README that a newcomer pastes."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import grpc
from kilonova.api.v1 import flavor_service_pb2, image_service_pb2, instance_service_pb2
from kilonova.types.v1 import flavor_pb2, image_pb2, instance_pb2

from api import send
from grpcurl import EXIT_CODE_BASE
from waiting import wait_for
from world import World

README = Path(__file__).resolve().parents[4] / "README.md"
PASTED_ADDRESS = "localhost:7770"
# How long a watch is read before it is interrupted, as a person would.
WATCHED_SECONDS = 2


def pasted_lines() -> list[str]:
    """Return the grpcurl lines of the README."""
    lines = [line.strip() for line in README.read_text().splitlines()]
    return [line for line in lines if line.startswith("grpcurl ")]


def grpcurl_lines_work_verbatim(world: World) -> None:
    """README: every grpcurl line does what it says, but for the address."""
    # What `kilonova up` provides.
    flavor = flavor_pb2.Flavor(id="m1.tiny", vcpus=1, ram_mib=512, disk_gib=1)
    send(world.api.flavors.CreateFlavor, flavor_service_pb2.CreateFlavorRequest(flavor=flavor))
    image = image_pb2.Image(id="cirros")
    send(world.api.images.CreateImage, image_service_pb2.CreateImageRequest(image=image))

    lines = pasted_lines()
    assert len(lines) >= 5, lines
    for line in lines:
        assert PASTED_ADDRESS in line, line
        command = shlex.split(line.replace(PASTED_ADDRESS, world.api.address))
        if command[-1].endswith("/WatchInstances"):
            watch(command)
            continue
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        if '"none"' in line:
            assert done.returncode == EXIT_CODE_BASE + grpc.StatusCode.NOT_FOUND.value[0], done
            assert "FLAVOR_NOT_FOUND" in done.stderr, done.stderr
            continue
        assert done.returncode == 0, f"{line}: {done.stderr}"
        if command[-1].endswith("/CreateInstance"):
            created = [instance["id"] for instance in json.loads(done.stdout)["instances"]]
            assert len(created) == 2, done.stdout
            world.instances.extend(created)
            for instance_id in created:
                wait_for("the instance to be ACTIVE", lambda i=instance_id: is_active(world, i), 30)


def is_active(world: World, instance_id: str) -> bool:
    """Return whether the instance runs."""
    request = instance_service_pb2.GetInstanceRequest(instance_id=instance_id)
    found = send(world.api.instances.GetInstance, request).instance
    return found.state == instance_pb2.Instance.STATE_ACTIVE


def watch(command: list[str]) -> None:
    """Run a watch until it is interrupted; the snapshot must have come."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            output, errors = process.communicate(timeout=WATCHED_SECONDS)
        except subprocess.TimeoutExpired:
            process.terminate()
            output, errors = process.communicate()
    assert "snapshotEnd" in output, output + errors

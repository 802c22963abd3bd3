"""Everyone stops when asked to."""

from __future__ import annotations

from kilonova.api.v1 import instance_service_pb2 as pb

from world import World

STOP_SECONDS = 10


def everyone_stops_in_time(world: World) -> None:
    """Shutdown: on SIGTERM every service ends with 0 within 10 s, also with a watch open."""
    stream = world.api.instances.WatchInstances(pb.WatchInstancesRequest(), timeout=60)
    next(stream)
    alive = [member.process for member in world.cluster.members if member.process.running()]
    for process in alive:
        process.terminate()
    codes = {process.name: process.wait(STOP_SECONDS) for process in alive}
    stream.cancel()
    assert set(codes.values()) == {0}, codes

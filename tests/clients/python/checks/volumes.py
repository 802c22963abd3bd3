"""The life of volumes."""

from __future__ import annotations

from kilonova.api.v1 import volume_service_pb2 as pb
from kilonova.types.v1 import volume_pb2

from api import send
from waiting import wait_for
from world import PROJECT, World

COUNT = 8
SECONDS = 60

Volume = volume_pb2.Volume


def get(world: World, volume_id: str) -> Volume:
    """Read one volume."""
    return send(world.api.volumes.GetVolume, pb.GetVolumeRequest(volume_id=volume_id)).volume


def wait_state(world: World, wanted: int) -> None:
    """Wait until every volume is in this state."""
    for volume_id in world.volumes:
        wait_for(
            f"volume {volume_id} to be {Volume.State.Name(wanted)}",
            lambda i=volume_id: get(world, i).state == wanted,
            SECONDS,
        )


def are_created_and_deleted(world: World) -> None:
    """Volumes: 8 become AVAILABLE on a backend, are listed, and end DELETED."""

    def create(number: int) -> str:
        spec = volume_pb2.VolumeSpec(name=f"vol-{number}", size_gib=1)
        request = pb.CreateVolumeRequest(project_id=PROJECT, volume=spec)
        return send(world.api.volumes.CreateVolume, request).volume.id

    world.volumes += world.pool.map(create, range(COUNT))
    wait_state(world, Volume.STATE_AVAILABLE)
    assert all(get(world, volume_id).host for volume_id in world.volumes)
    listed = send(world.api.volumes.ListVolumes, pb.ListVolumesRequest(project_id=PROJECT)).volumes
    assert [v.id for v in listed] == sorted(world.volumes), listed
    for volume_id in world.volumes:
        send(world.api.volumes.DeleteVolume, pb.DeleteVolumeRequest(volume_id=volume_id))
    wait_state(world, Volume.STATE_DELETED)

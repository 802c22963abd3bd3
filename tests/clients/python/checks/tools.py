"""What a person with grpcurl sees, who has none of the protos."""

from __future__ import annotations

import grpc
from google.protobuf.descriptor import FileDescriptor
from kilonova.api.v1 import (
    aggregate_service_pb2,
    flavor_service_pb2,
    host_service_pb2,
    image_service_pb2,
    instance_service_pb2,
    placement_service_pb2,
    quota_service_pb2,
    server_group_service_pb2,
    snapshot_service_pb2,
    volume_service_pb2,
)

from api import decode
from waiting import wait_for
from world import FLAVOR, IMAGE, PROJECT, World

SERVICE = "kilonova.api.v1.InstanceService"
STANDARD = {
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}
PUBLIC: list[FileDescriptor] = [
    aggregate_service_pb2.DESCRIPTOR,
    flavor_service_pb2.DESCRIPTOR,
    host_service_pb2.DESCRIPTOR,
    image_service_pb2.DESCRIPTOR,
    instance_service_pb2.DESCRIPTOR,
    placement_service_pb2.DESCRIPTOR,
    quota_service_pb2.DESCRIPTOR,
    server_group_service_pb2.DESCRIPTOR,
    snapshot_service_pb2.DESCRIPTOR,
    volume_service_pb2.DESCRIPTOR,
]
PUBLIC_METHODS = {
    method.full_name
    for file in PUBLIC
    for service in file.services_by_name.values()
    for method in service.methods
}
WORKING = {
    "kilonova.api.v1.AggregateService",
    "kilonova.api.v1.AuditService",
    "kilonova.api.v1.FlavorService",
    "kilonova.api.v1.HostService",
    "kilonova.api.v1.ImageService",
    "kilonova.api.v1.InstanceService",
    "kilonova.api.v1.PlacementService",
    "kilonova.api.v1.QuotaService",
    "kilonova.api.v1.ServerGroupService",
    "kilonova.api.v1.SnapshotService",
    "kilonova.api.v1.StoreService",
    "kilonova.api.v1.VolumeService",
    "kilonova.base.v1.BaseService",
}


def listed_methods(world: World, service: str) -> set[str]:
    """Return the full names of a service's methods, as reflection tells them."""
    return set(world.grpcurl.run("list", service).lines())


def only_working_services_are_listed(world: World) -> None:
    """grpcurl: list shows what works, health and both reflections, and no listed method is unimplemented."""
    services = set(world.grpcurl.run("list").lines())
    assert services >= STANDARD | WORKING, services
    for service in services - STANDARD:
        for method in listed_methods(world, service):
            name = method.rpartition(".")[2]
            # An empty request is enough to learn that a method is there; half a second of a stream is, too.
            answer = world.grpcurl.run(f"{service}/{name}", before=("-max-time", "0.5", "-d", "{}"))
            assert answer.code() != grpc.StatusCode.UNIMPLEMENTED.value[0], f"{method}: {answer.stderr}"


def what_is_not_listed_is_refused(world: World) -> None:
    """grpcurl: what reflection hides answers UNIMPLEMENTED with a reason."""
    services = world.grpcurl.run("list").lines()
    listed = {method for service in services for method in listed_methods(world, service)}
    for full_name in PUBLIC_METHODS - listed:
        service, _, name = full_name.rpartition(".")
        call = world.api.channel.unary_unary(f"/{service}/{name}")
        try:
            call(b"", timeout=5)
        except grpc.RpcError as error:
            found = decode(error)
            assert found.code == grpc.StatusCode.UNIMPLEMENTED, f"{full_name}: {found}"
            assert found.reason == "METHOD_NOT_IMPLEMENTED", f"{full_name}: {found}"
        else:
            raise AssertionError(f"{full_name} is not listed, but works")


def describe_prints_the_comments(world: World) -> None:
    """grpcurl: describe prints the comments of the protos."""
    text = world.grpcurl.run("describe", SERVICE).stdout
    assert "rpc CreateInstance" in text, text
    assert "// CreateInstance accepts" in text, text
    assert "QUOTA_EXCEEDED" in text, text


def an_instance_lives_and_dies(world: World) -> None:
    """grpcurl: create, get, list and delete work with plain JSON."""
    spec = {"name": "by-grpcurl", "flavorId": FLAVOR, "imageId": IMAGE}
    created = world.grpcurl.call(f"{SERVICE}/CreateInstance", {"projectId": PROJECT, "instance": spec}).json()
    instance_id = created["instances"][0]["id"]
    world.instances.append(instance_id)

    def state() -> str:
        answer = world.grpcurl.call(f"{SERVICE}/GetInstance", {"instanceId": instance_id}).json()
        return answer["instance"]["state"]

    wait_for("the instance to be ACTIVE", lambda: state() == "STATE_ACTIVE", 30)
    listed = world.grpcurl.call(f"{SERVICE}/ListInstances", {"projectId": PROJECT, "pageSize": 1000}).json()
    assert instance_id in [instance["id"] for instance in listed["instances"]]
    world.grpcurl.call(f"{SERVICE}/DeleteInstance", {"instanceId": instance_id}).json()
    wait_for("the instance to be DELETED", lambda: state() == "STATE_DELETED", 30)


def error_details_are_decoded(world: World) -> None:
    """grpcurl: an error shows its decoded details, with the field that is wrong."""
    answer = world.grpcurl.call(f"{SERVICE}/CreateInstance", {"instance": {"name": ""}})
    assert answer.code() == grpc.StatusCode.INVALID_ARGUMENT.value[0], answer
    for expected in ("VALIDATION_FAILED", "instance.name", "google.rpc.BadRequest"):
        assert expected in answer.stderr, answer.stderr
    assert '"@value"' not in answer.stderr, f"details came as bytes: {answer.stderr}"

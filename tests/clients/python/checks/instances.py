"""The life of instances, seen by the generated client."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

import grpc
from google.protobuf import duration_pb2
from kilonova.api.v1 import instance_service_pb2 as pb
from kilonova.types.v1 import action_pb2, instance_pb2

from api import send
from waiting import wait_for
from world import FLAVOR, IMAGE, PROJECT, World

COUNT = 50
BUILD_SECONDS = 60
DELETE_SECONDS = 60
PAGE_SIZE = 20

Instance = instance_pb2.Instance
FINAL = (Instance.STATE_ACTIVE, Instance.STATE_ERROR, Instance.STATE_DELETED)


def creation(name: str, flavor: str = FLAVOR, **fields: object) -> pb.CreateInstanceRequest:
    """Make a request for one instance."""
    spec = instance_pb2.InstanceSpec(name=name, flavor_id=flavor, image_id=IMAGE)
    return pb.CreateInstanceRequest(**{"project_id": PROJECT, "instance": spec, **fields})


def get(world: World, instance_id: str) -> Instance:
    """Read one instance."""
    return send(world.api.instances.GetInstance, pb.GetInstanceRequest(instance_id=instance_id)).instance


def create(world: World, names: Iterable[str], attempts: int = 1) -> list[str]:
    """Create instances concurrently and return their ids."""

    def one(name: str) -> str:
        answer = send(world.api.instances.CreateInstance, creation(name), attempts)
        (instance,) = answer.instances
        assert instance.state == Instance.STATE_BUILDING, instance
        return instance.id

    return list(world.pool.map(one, names))


def watch(world: World, ids: Iterable[str], wanted: int, timeout: float) -> None:
    """Follow the watch until each of these instances is in the wanted state; fail on another final one."""
    left = set(ids)
    request = pb.WatchInstancesRequest(
        project_id=PROJECT,
        instance_ids=sorted(left),
        states=[s for s in Instance.State.values() if s],
        heartbeat_interval=duration_pb2.Duration(seconds=1),
    )
    stream = world.api.instances.WatchInstances(request, timeout=timeout)
    try:
        for message in stream:
            kind = message.WhichOneof("event")
            if kind in ("snapshot", "update"):
                instance = getattr(message, kind)
                if instance.state == wanted:
                    left.discard(instance.id)
                elif instance.state == Instance.STATE_ERROR:
                    raise AssertionError(f"an instance failed: {instance}")
            elif kind == "delete" and wanted == Instance.STATE_DELETED:
                left.discard(message.delete)
            if not left:
                return
    except grpc.RpcError as error:
        raise AssertionError(f"the watch ended with {error.code()}; not there yet: {sorted(left)}") from error
    finally:
        stream.cancel()
    raise AssertionError(f"the watch ended by itself; not there yet: {sorted(left)}")


def fifty_are_created_at_once(world: World) -> None:
    """Instances: 50 are accepted, sent concurrently."""
    world.instances += create(world, [f"vm-{number:02}" for number in range(COUNT)])
    assert len(set(world.instances)) == COUNT


def watch_shows_them_active(world: World) -> None:
    """Instances: the watch shows every one of them become ACTIVE."""
    watch(world, world.instances, Instance.STATE_ACTIVE, BUILD_SECONDS)
    for instance_id in world.instances:
        instance = get(world, instance_id)
        assert instance.host in {m.host for m in world.cluster.of("compute")}, instance
        assert instance.attempt == 1, instance


def are_listed_in_pages(world: World) -> None:
    """Instances: pages of 20 hold 20, 20 and 10, in order, each instance once."""
    pages: list[list[str]] = []
    token = ""
    while not pages or token:
        request = pb.ListInstancesRequest(page_size=PAGE_SIZE, page_token=token, project_id=PROJECT)
        answer = send(world.api.instances.ListInstances, request)
        pages.append([instance.id for instance in answer.instances])
        token = answer.next_page_token
    assert [len(page) for page in pages] == [20, 20, 10], [len(page) for page in pages]
    listed = [instance_id for page in pages for instance_id in page]
    assert listed == sorted(world.instances), "not in the order they were created, or not the same ones"


def a_repeated_request_creates_nothing_new(world: World) -> None:
    """Instances: the same request id again gets the same instance."""
    request = creation("once", request_id=str(uuid.uuid4()))
    first, second = (send(world.api.instances.CreateInstance, request).instances[0].id for _ in range(2))
    world.instances.append(first)
    assert first == second
    watch(world, [first], Instance.STATE_ACTIVE, BUILD_SECONDS)


def timeline_names_each_step(world: World) -> None:
    """Instances: the history says which service did what, and for how long."""
    request = pb.ListInstanceActionsRequest(instance_id=world.instances[0])
    (action,) = send(world.api.instances.ListInstanceActions, request).actions
    assert action.kind == action_pb2.Action.KIND_CREATE, action
    assert action.outcome == action_pb2.OUTCOME_SUCCEEDED, action
    steps = {step.name: step for step in action.steps}
    for name in ("schedule", "spawn"):
        assert name in steps, action
        assert steps[name].host, action
        assert steps[name].HasField("duration"), action


def all_are_deleted(world: World) -> None:
    """Instances: every one can be deleted, also those that found no place, and is then DELETED."""
    ids = world.instances + world.unplaced

    def delete(instance_id: str) -> None:
        request = pb.DeleteInstanceRequest(instance_id=instance_id, allow_missing=True)
        send(world.api.instances.DeleteInstance, request, attempts=3)

    list(world.pool.map(delete, ids))
    for instance_id in ids:
        wait_for(
            f"{instance_id} to be DELETED",
            lambda i=instance_id: get(world, i).state == Instance.STATE_DELETED,
            DELETE_SECONDS,
        )
    request = pb.ListInstancesRequest(project_id=PROJECT)
    assert not send(world.api.instances.ListInstances, request).instances

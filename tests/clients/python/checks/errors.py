"""What goes wrong is said in a form that programs can read."""

from __future__ import annotations

import grpc
from kilonova.api.v1 import quota_service_pb2
from kilonova.types.v1 import instance_pb2, quota_pb2

from api import failure, send
from checks.instances import creation, get
from waiting import wait_for
from world import HUGE_FLAVOR, World

DOMAIN = "kilonova"
SMALL_PROJECT = "process-test-small"


def a_bad_name_is_explained(world: World) -> None:
    """Errors: a bad name is INVALID_ARGUMENT, and BadRequest names the field."""
    found = failure(world.api.instances.CreateInstance, creation(""))
    assert found.code == grpc.StatusCode.INVALID_ARGUMENT, found
    assert (found.reason, found.domain) == ("VALIDATION_FAILED", DOMAIN), found
    assert found.violations.get("instance.name"), found


def an_unknown_flavor_is_named(world: World) -> None:
    """Errors: an unknown flavor is NOT_FOUND, and ErrorInfo names it."""
    found = failure(world.api.instances.CreateInstance, creation("x", flavor="no-such-flavor"))
    assert found.code == grpc.StatusCode.NOT_FOUND, found
    assert (found.reason, found.domain) == ("FLAVOR_NOT_FOUND", DOMAIN), found
    assert "no-such-flavor" in found.metadata.values(), found


def the_quota_holds(world: World) -> None:
    """Errors: past the quota it is RESOURCE_EXHAUSTED, and nothing was created."""
    limits = quota_pb2.QuotaLimits(
        instances=1, cores=20, ram_mib=51200, volumes=10, gigabytes=1000, snapshots=10
    )
    update = quota_service_pb2.UpdateQuotaRequest(project_id=SMALL_PROJECT, limits=limits)
    send(world.api.quotas.UpdateQuota, update)
    found = failure(world.api.instances.CreateInstance, creation("x", project_id=SMALL_PROJECT, count=2))
    assert found.code == grpc.StatusCode.RESOURCE_EXHAUSTED, found
    assert (found.reason, found.domain) == ("QUOTA_EXCEEDED", DOMAIN), found
    assert found.metadata, found
    read = quota_service_pb2.GetQuotaRequest(project_id=SMALL_PROJECT)
    assert send(world.api.quotas.GetQuota, read).quota.usage.instances == 0


def no_room_is_explained(world: World) -> None:
    """Errors: what fits nowhere ends in ERROR, and says which filter removed how many hosts."""
    answer = send(world.api.instances.CreateInstance, creation("huge", flavor=HUGE_FLAVOR))
    instance_id = answer.instances[0].id
    world.unplaced.append(instance_id)

    def failed() -> instance_pb2.Instance | None:
        instance = get(world, instance_id)
        return instance if instance.state == instance_pb2.Instance.STATE_ERROR else None

    fault = wait_for("the instance to be in ERROR", failed, 30).fault
    assert fault.reason == "NO_VALID_HOST", fault
    explanation = fault.explanation
    hosts = len(world.cluster.of("compute"))
    assert explanation.considered == hosts, explanation
    assert explanation.remaining == 0, explanation
    assert sum(f.removed for f in explanation.filters) == hosts, explanation
    assert explanation.summary, explanation

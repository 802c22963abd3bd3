"""Services find each other, and the schedulers hear of every host."""

from __future__ import annotations

from kilonova.api.v1 import host_service_pb2
from kilonova.types.v1 import host_pb2, service_kind_pb2

from api import send
from cluster import MEMBERS
from waiting import wait_for
from world import World

DISCOVERY_SECONDS = 30


def members(world: World) -> set[tuple[str, str]]:
    """Return (service, host) of everyone in the registry."""
    answer = send(world.api.hosts.ListServices, host_service_pb2.ListServicesRequest())
    prefix = "SERVICE_KIND_"
    kinds = service_kind_pb2.ServiceKind
    return {(kinds.Name(m.service).removeprefix(prefix).lower(), m.host) for m in answer.services}


def everyone_is_listed(world: World) -> None:
    """Discovery: every process that was started is in the registry."""
    expected = {(service, host) for service, hosts in MEMBERS.items() for host in hosts}
    wait_for("all members in the registry", lambda: members(world) == expected, DISCOVERY_SECONDS)


def every_host_is_up(world: World) -> None:
    """Discovery: every compute host and backend is up, with its figures."""

    def all_up() -> bool:
        hosts = send(world.api.hosts.ListHosts, host_service_pb2.ListHostsRequest()).hosts
        up = [h for h in hosts if h.state == host_pb2.Host.STATE_UP and h.HasField("capabilities")]
        return len(up) == len(MEMBERS["compute"]) + len(MEMBERS["volume"])

    wait_for("all hosts up", all_up, DISCOVERY_SECONDS)

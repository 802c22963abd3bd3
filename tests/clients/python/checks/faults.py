"""Processes die; work goes on."""

from __future__ import annotations

from checks import discovery, instances
from waiting import wait_for
from world import World

COUNT = 10
# A lease lives 15 s; its shards have an owner again soon after.
TAKEOVER_SECONDS = 60


def replaced(world: World, service: str) -> None:
    """Kill the first member of a service in the middle of work, and see the work done by the other."""
    victim = world.cluster.of(service)[0]
    names = [f"without-{victim.host}-{number}" for number in range(2 * COUNT)]
    before = instances.create(world, names[:COUNT])
    victim.process.kill()
    after = instances.create(world, names[COUNT:], attempts=5)
    world.instances += before + after
    instances.watch(world, before + after, instances.Instance.STATE_ACTIVE, TAKEOVER_SECONDS)
    gone = (service, victim.host)
    wait_for(
        f"{victim.host} to leave the registry", lambda: gone not in discovery.members(world), TAKEOVER_SECONDS
    )


def a_killed_conductor_is_replaced(world: World) -> None:
    """Faults: with one of two conductors killed, what was accepted is built, and new work is taken."""
    replaced(world, "conductor")


def a_killed_scheduler_is_replaced(world: World) -> None:
    """Faults: with one of two schedulers killed, what was accepted is built, and new work is taken."""
    replaced(world, "scheduler")

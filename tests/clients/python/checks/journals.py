"""What the drivers really did: each simulated driver journals its deeds, one JSON object a line."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable

from world import World

JOURNAL = "journal.jsonl"


def deeds(world: World, service: str, made: str, removed: str) -> dict[str, list[tuple[str, str]]]:
    """Return, by id, every making and removing as (deed, host), in each journal's order."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for member in world.cluster.of(service):
        for journal in member.data_dir.rglob(JOURNAL):
            for line in journal.read_text().splitlines():
                entry = json.loads(line)
                if entry["op"] in (made, removed):
                    assert entry["host"] == member.host, f"{entry} in the journal of {member.host}"
                    found[entry["id"]].append((entry["op"], entry["host"]))
    return found


def once_each(world: World, service: str, made: str, removed: str, ids: Iterable[str]) -> None:
    """Check that exactly these were made, each once on one host, and removed there once, after that."""
    found = deeds(world, service, made, removed)
    assert set(found) == set(ids), f"made: {len(found)}; differs: {sorted(set(found) ^ set(ids))}"
    for one, entries in found.items():
        host = entries[0][1]
        assert entries == [(made, host), (removed, host)], f"{one}: {entries}"


def every_instance_was_spawned_on_one_host_and_destroyed_once(world: World) -> None:
    """Journals: every instance was spawned on one host, once, and destroyed there, once; no other was."""
    once_each(world, "compute", "spawn", "destroy", world.instances)


def every_volume_was_made_and_deleted_once(world: World) -> None:
    """Journals: every volume was made on one backend, once, and deleted there, once."""
    once_each(world, "volume", "create", "delete", world.volumes)

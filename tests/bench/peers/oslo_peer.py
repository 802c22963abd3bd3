"""The peer's processes: an oslo.messaging server that echoes, and a client that calls and casts.

    oslo_peer.py serve URL EXECUTOR TOPIC NAME,NAME,…    one subscriber for each name
    oslo_peer.py call  URL EXECUTOR TOPIC

Both say READY, then answer each JSON line of input with one of output, until their input ends.
Everything is as oslo.messaging ships it: no option is set.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oslo_messaging import RPCClient

FLAT_BYTES = 200
NESTED_BYTES = 2450
WARM_UP_CALLS = 50


def argument_of(kind: str) -> dict[str, Any]:
    """Return an argument of this size as JSON: a flat one, or one nested as a request spec is."""
    if kind == "flat":
        return filled({"id": uuid(0), "host": "compute-0001", "attempt": 1}, FLAT_BYTES)
    spec = {
        "instance_uuid": uuid(0),
        "project_id": "a" * 32,
        "num_instances": 1,
        "flavor": {
            "id": 3,
            "name": "m1.small",
            "vcpus": 1,
            "memory_mb": 512,
            "root_gb": 1,
            "ephemeral_gb": 0,
            "swap": 0,
            "extra_specs": {"hw:cpu_policy": "shared", "hw:mem_page_size": "any"},
        },
        "image": {
            "id": uuid(1),
            "size": 1024,
            "min_ram": 0,
            "min_disk": 0,
            "properties": {"hw_disk_bus": "virtio", "hw_vif_model": "virtio", "os_distro": "debian"},
        },
        "limits": {"numa_topology": None, "vcpu": 16.0, "disk_gb": 200, "memory_mb": 32768},
        "scheduler_hints": {"group": [uuid(2)]},
        "requested_networks": [
            {"network_id": uuid(10 + n), "port_id": None, "address": None, "tag": f"nic{n}"} for n in range(5)
        ],
        "requested_resources": [
            {
                "resources": {"VCPU": 1, "MEMORY_MB": 512, "DISK_GB": 1},
                "required_traits": ["HW_CPU_X86_AVX2"],
                "aggregates": [],
                "in_tree": None,
            }
        ],
    }
    retry = {"num_attempts": 1, "hosts": [["compute-0001", "compute-0001"]]}
    return filled({"request_spec": spec, "retry": retry}, NESTED_BYTES)


def filled(argument: dict[str, Any], size: int) -> dict[str, Any]:
    """Bring an argument to exactly this size as JSON."""
    argument["pad"] = ""
    argument["pad"] = "x" * (size - len(json.dumps(argument)))
    assert len(json.dumps(argument)) == size
    return argument


def uuid(number: int) -> str:
    """Return an id that looks like one."""
    return f"6f1ed002-ab5d-4f3c-8d2f-{number:012}"


def messaging(url: str, executor: str) -> tuple[Any, Any]:
    """Return the library and a transport. What runs the handlers has to be settled before it is imported."""
    if executor == "eventlet":
        import eventlet

        eventlet.monkey_patch()
    else:
        # Without this oslo.service loads eventlet.
        from oslo_service import backend

        backend.init_backend(backend.BackendType.THREADING)
    import oslo_messaging
    from oslo_config import cfg

    # Some options are registered on the global object only, so that one it has to be.
    cfg.CONF([])
    return oslo_messaging, oslo_messaging.get_rpc_transport(cfg.CONF, url=url)


def requests(executor: str) -> Iterator[dict[str, Any]]:
    """Yield what is asked, line by line; under eventlet a native thread waits for it."""
    read = sys.stdin.readline
    if executor == "eventlet":
        from eventlet import tpool

        def read() -> str:
            return tpool.execute(sys.stdin.readline)

    for line in iter(read, ""):
        yield json.loads(line)


def answer(values: dict[str, Any]) -> None:
    """Say one line."""
    print(json.dumps(values), flush=True)


class Endpoint:
    """What one subscriber does with calls and casts."""

    def __init__(self) -> None:
        """Nothing has arrived yet."""
        self.deliveries: list[tuple[int, float]] = []

    def echo(self, context: dict[str, Any], argument: object) -> object:
        """Answer with what was sent."""
        return argument

    def update(self, context: dict[str, Any], number: int, sent: float) -> None:
        """Note how long a cast took; both processes read the same monotonic clock."""
        self.deliveries.append((number, time.monotonic() - sent))


def serve(url: str, executor: str, topic: str, names: str) -> None:
    """Serve as each of the names; tell the deliveries whenever asked."""
    library, transport = messaging(url, executor)
    endpoints = []
    for name in names.split(","):
        endpoint = Endpoint()
        target = library.Target(topic=topic, server=name)
        library.get_rpc_server(transport, target, [endpoint], executor=executor).start()
        endpoints.append(endpoint)
    print("READY", flush=True)
    for _ in requests(executor):
        answer({"deliveries": [delivery for endpoint in endpoints for delivery in endpoint.deliveries]})


def call(url: str, executor: str, topic: str) -> None:
    """Call or cast for as long as each request says."""
    library, transport = messaging(url, executor)
    client = library.get_rpc_client(transport, library.Target(topic=topic))
    for _ in range(WARM_UP_CALLS):
        client.call({}, "echo", argument=1)
    print("READY", flush=True)
    for request in requests(executor):
        answer(cast(client, **request) if "casts" in request else window(client, **request))


def window(client: RPCClient, payload: str, in_flight: int, seconds: float) -> dict[str, float]:
    """Let this many callers call, each again as soon as it is answered."""
    argument = argument_of(payload)
    times: list[float] = []
    start = time.monotonic()

    def caller() -> None:
        mine = []
        while time.monotonic() < start + seconds:
            sent = time.perf_counter()
            client.call({}, "echo", argument=argument)
            mine.append(time.perf_counter() - sent)
        times.extend(mine)

    callers = [threading.Thread(target=caller) for _ in range(in_flight)]
    for one in callers:
        one.start()
    for one in callers:
        one.join()
    took = time.monotonic() - start
    times.sort()
    p50, p99 = (times[int((len(times) - 1) * part)] * 1e6 for part in (0.5, 0.99))
    return {"calls": len(times), "seconds": took, "p50_us": p50, "p99_us": p99}


def cast(client: RPCClient, casts: int, gap: float) -> dict[str, int]:
    """Tell all subscribers something, so far apart that each time they are idle."""
    to_all = client.prepare(fanout=True)
    for number in range(casts):
        to_all.cast({}, "update", number=number, sent=time.monotonic())
        time.sleep(gap)
    return {"casts": casts}


if __name__ == "__main__":
    {"serve": serve, "call": call}[sys.argv[1]](*sys.argv[2:])
    sys.stdout.flush()
    # Leave without the farewell of the library's threads: nobody waits for it.
    os._exit(0)

"""The generated client, and what a careful caller adds: request ids, deadlines, decoded errors."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from kilonova.api.v1 import (
    flavor_service_pb2_grpc,
    host_service_pb2_grpc,
    image_service_pb2_grpc,
    instance_service_pb2_grpc,
    quota_service_pb2_grpc,
    volume_service_pb2_grpc,
)

DEADLINE_SECONDS = 20
SEND_AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED)


class Api:
    """One channel and a stub per service of the public API."""

    def __init__(self, address: str) -> None:
        """Connect lazily to this address, in plain text and not through a proxy."""
        self.address = address
        self.channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
        self.instances = instance_service_pb2_grpc.InstanceServiceStub(self.channel)
        self.volumes = volume_service_pb2_grpc.VolumeServiceStub(self.channel)
        self.flavors = flavor_service_pb2_grpc.FlavorServiceStub(self.channel)
        self.images = image_service_pb2_grpc.ImageServiceStub(self.channel)
        self.quotas = quota_service_pb2_grpc.QuotaServiceStub(self.channel)
        self.hosts = host_service_pb2_grpc.HostServiceStub(self.channel)

    def close(self) -> None:
        """Give the connection back."""
        self.channel.close()


def send(method: Callable[..., Any], request: Any, attempts: int = 1) -> Any:  # noqa: ANN401  # any message
    """Call with a deadline; with more attempts, repeat what may not have arrived.

    A request that changes something gets a request id first, so that repeating it is harmless.
    """
    if "request_id" in request.DESCRIPTOR.fields_by_name and not request.request_id:
        request.request_id = str(uuid.uuid4())
    for left in reversed(range(attempts)):
        try:
            return method(request, timeout=DEADLINE_SECONDS)
        except grpc.RpcError as error:
            if left == 0 or error.code() not in SEND_AGAIN:
                raise
    raise ValueError("attempts must be at least 1")


@dataclass
class Failure:
    """An error of the API, decoded from its standard details."""

    code: grpc.StatusCode
    message: str
    reason: str
    domain: str
    metadata: dict[str, str]
    violations: dict[str, str]


def failure(method: Callable[..., Any], request: Any) -> Failure:  # noqa: ANN401  # any message
    """Make a call that must fail, and return the decoded error."""
    try:
        answer = send(method, request)
    except grpc.RpcError as error:
        return decode(error)
    raise AssertionError(f"the call should have failed, but answered {answer}")


def decode(error: grpc.RpcError) -> Failure:
    """Read `google.rpc.Status` and the details in it."""
    found = Failure(error.code(), error.details(), "", "", {}, {})
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        bad_request = error_details_pb2.BadRequest()
        if detail.Unpack(info):
            found.reason, found.domain, found.metadata = info.reason, info.domain, dict(info.metadata)
        elif detail.Unpack(bad_request):
            found.violations = {v.field: v.description for v in bad_request.field_violations}
    return found

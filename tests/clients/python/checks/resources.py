"""What an operator prepares: quota, flavors, an image."""

from __future__ import annotations

from kilonova.api.v1 import flavor_service_pb2, image_service_pb2, quota_service_pb2
from kilonova.types.v1 import flavor_pb2, image_pb2, quota_pb2

from api import send
from waiting import wait_for
from world import FLAVOR, HUGE_FLAVOR, IMAGE, PROJECT, World

UNLIMITED = quota_pb2.QuotaLimits(instances=200, cores=-1, ram_mib=-1, volumes=20, gigabytes=-1, snapshots=10)


def quota_is_set(world: World) -> None:
    """Quota: a project's limits are stored as given."""
    request = quota_service_pb2.UpdateQuotaRequest(project_id=PROJECT, limits=UNLIMITED)
    assert send(world.api.quotas.UpdateQuota, request).quota.limits == UNLIMITED
    quota = send(world.api.quotas.GetQuota, quota_service_pb2.GetQuotaRequest(project_id=PROJECT)).quota
    assert quota.limits == UNLIMITED, quota
    assert quota.usage.instances == 0, quota


def flavors_and_image_are_created(world: World) -> None:
    """Flavors and image: what is created is listed."""
    small = flavor_pb2.Flavor(id=FLAVOR, vcpus=1, ram_mib=64, disk_gib=1)
    huge = flavor_pb2.Flavor(id=HUGE_FLAVOR, vcpus=1024, ram_mib=16777216, disk_gib=1)
    for flavor in (small, huge):
        send(world.api.flavors.CreateFlavor, flavor_service_pb2.CreateFlavorRequest(flavor=flavor))
    image = image_pb2.Image(id=IMAGE)
    send(world.api.images.CreateImage, image_service_pb2.CreateImageRequest(image=image))
    flavors = send(world.api.flavors.ListFlavors, flavor_service_pb2.ListFlavorsRequest()).flavors
    assert {FLAVOR, HUGE_FLAVOR} <= {f.id for f in flavors}, flavors
    images = send(world.api.images.ListImages, image_service_pb2.ListImagesRequest()).images
    assert IMAGE in {i.id for i in images}, images


def usage_is_back_to_zero(world: World) -> None:
    """Quota: when all is deleted, nothing is counted any more."""

    def nothing_used() -> bool:
        request = quota_service_pb2.GetQuotaRequest(project_id=PROJECT)
        return send(world.api.quotas.GetQuota, request).quota.usage == quota_pb2.QuotaUsage()

    wait_for("the usage to be zero", nothing_used, 10)

"""The checks, in the order they run: each is a function of the world, and its docstring is its title."""

from __future__ import annotations

from collections.abc import Callable

from checks import discovery, errors, faults, instances, journals, readme, resources, shutdown, tools, volumes
from world import World

Check = Callable[[World], None]

ALL: list[Check] = [
    discovery.everyone_is_listed,
    discovery.every_host_is_up,
    resources.quota_is_set,
    resources.flavors_and_image_are_created,
    instances.fifty_are_created_at_once,
    instances.watch_shows_them_active,
    instances.are_listed_in_pages,
    instances.a_repeated_request_creates_nothing_new,
    instances.timeline_names_each_step,
    errors.a_bad_name_is_explained,
    errors.an_unknown_flavor_is_named,
    errors.the_quota_holds,
    errors.no_room_is_explained,
    tools.only_working_services_are_listed,
    tools.what_is_not_listed_is_refused,
    tools.describe_prints_the_comments,
    tools.an_instance_lives_and_dies,
    tools.error_details_are_decoded,
    volumes.are_created_and_deleted,
    readme.grpcurl_lines_work_verbatim,
    faults.a_killed_conductor_is_replaced,
    faults.a_killed_scheduler_is_replaced,
    instances.all_are_deleted,
    resources.usage_is_back_to_zero,
    journals.every_instance_was_spawned_on_one_host_and_destroyed_once,
    journals.every_volume_was_made_and_deleted_once,
    shutdown.everyone_stops_in_time,
]

"""What a consumer does beside its messages.

It renews the lease, moves what is due, notes the mark, deletes the consumers of dead processes, and trims.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable

import anyio

from streammachine.errors import RedisAuthError, RedisFullError, RedisUnavailableError, StreamMachineError
from streammachine.runtime.consumer.context import ConsumerContext
from streammachine.runtime.delivery.group import NoGroupError
from streammachine.runtime.delivery.retention import trim_acknowledged

log = logging.getLogger(__name__)

PERIOD = 1.0  # seconds between two rounds; a quarter of the lease where that is shorter
DELETE_PERIOD = 60.0  # seconds between two looks for consumers of dead processes
DEAD_AFTER = 3600.0  # seconds without a read after which an empty consumer counts as dead


async def keep_lease(context: ConsumerContext) -> None:
    """Renew the lease until cancelled; the last task of a consumer to end."""
    while True:
        await anyio.sleep(context.config.lease / 3)
        try:
            lost = await context.delivery.renew()
        except NoGroupError:
            continue  # the reader creates it again
        except StreamMachineError as error:
            log.warning("Renewing the lease of %r: %s", context.topic, error)
            continue
        give_back_strays(context)
        if lost:
            context.metrics.lost += len(lost)
            context.settler.slots_available.ring()
            log.warning(
                "%d messages of %r were taken over by others while this process was paused", len(lost), context.topic
            )


def give_back_strays(context: ConsumerContext) -> None:
    """Let go of what is held and nobody runs; the reader finds it under our name and has it run."""
    strays = context.strays()
    if not strays:
        return
    log.error(
        "%d messages of %r were held and nobody ran them (an error of StreamMachine): %s; they come again",
        len(strays), context.topic, ", ".join(item.id.decode() for item in strays[:10]),
    )  # fmt: skip
    for item in strays:
        context.delivery.drop(item)
    context.settler.recover = True
    context.settler.slots_available.ring()


async def maintain(context: ConsumerContext) -> None:
    """Do the rounds until the consumer stops."""
    delivery = context.delivery
    period = min(PERIOD, context.config.lease / 4)
    looked = time.monotonic()
    wait: float | None = None

    async def move() -> None:
        nonlocal wait
        _, wait = await delivery.move_due()

    async def delete_consumers() -> None:
        nonlocal looked
        if time.monotonic() - looked > DELETE_PERIOD:
            looked = time.monotonic()
            await delivery.delete_idle_consumers(int(DEAD_AFTER * 1000))

    async def trim() -> None:
        if context.config.retain == "acked":
            await trim_acknowledged(context.connection, context.topic)

    steps = {
        "moving delayed messages": move,
        "opening the retries": delivery.open_retry,
        "noting the mark": delivery.write_mark,
        "deleting dead consumers": delete_consumers,
        "trimming": trim,
    }
    while not context.stopping:
        pause = period * random.uniform(0.75, 1.25)
        await context.pause(pause if wait is None else min(pause, wait))
        if context.stopping:
            return
        wait = None
        for name, step in steps.items():
            await _do(context, name, step)


async def _do(context: ConsumerContext, name: str, step: Callable[[], Awaitable[None]]) -> None:
    """Do one step of a round. One that fails is logged once, and the others are done all the same: at the memory limit
    the last one makes room."""
    try:
        await step()
    except NoGroupError:
        context.settler.group_lost = True  # the reader creates it again, even if it has no room to read
        context.settler.slots_available.ring()
    except StreamMachineError as error:
        if context.maintenance_errors.get(name) != str(error):
            away = isinstance(error, (RedisUnavailableError, RedisFullError)) and not isinstance(error, RedisAuthError)
            level = logging.WARNING if away else logging.ERROR
            log.log(level, "Maintaining %r, %s: %s; trying again", context.topic, name, error)
        context.maintenance_errors[name] = str(error)
        return
    context.maintenance_errors.pop(name, None)

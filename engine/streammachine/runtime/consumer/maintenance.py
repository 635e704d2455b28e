"""What a consumer does beside its messages: renewing the lease, moving what is due, marking, burying, trimming."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio

from streammachine.errors import RedisAuthError, RedisFullError, RedisUnavailableError, StreamMachineError
from streammachine.runtime.delivery.group import NoGroupError
from streammachine.runtime.delivery.retention import trim_acknowledged

if TYPE_CHECKING:
    from streammachine.runtime.consumer.consumer import StreamConsumer

log = logging.getLogger(__name__)

TEND_PERIOD = 1.0  # seconds between two rounds; a quarter of the lease where that is shorter
BURY_PERIOD = 60.0  # seconds between two looks for consumers of dead processes
DEAD_AFTER = 3600.0  # seconds without a read after which an empty consumer counts as dead


async def keep_lease(consumer: StreamConsumer) -> None:
    """Renew the lease until cancelled; the last task of a consumer to end."""
    while True:
        await anyio.sleep(consumer.config.lease / 3)
        try:
            lost = await consumer.delivery.renew()
        except NoGroupError:
            continue  # the reader creates it again
        except StreamMachineError as error:
            log.warning("Renewing the lease of %r: %s", consumer.topic, error)
            continue
        give_back_strays(consumer)
        if lost:
            consumer.metrics.lost += len(lost)
            consumer.settler.slots_available.ring()
            log.warning(
                "%d messages of %r were taken over by others while this process was paused", len(lost), consumer.topic
            )


def give_back_strays(consumer: StreamConsumer) -> None:
    """Let go of what is held and nobody runs; the reader finds it under our name and has it run."""
    strays = consumer.strays()
    if not strays:
        return
    log.error(
        "%d messages of %r were held and nobody ran them (an error of StreamMachine): %s; they come again",
        len(strays), consumer.topic, ", ".join(item.id.decode() for item in strays[:10]),
    )  # fmt: skip
    for item in strays:
        consumer.delivery.drop(item)
    consumer.settler.recover = True
    consumer.settler.slots_available.ring()


async def maintain(consumer: StreamConsumer) -> None:
    """Do the rounds until the consumer stops."""
    delivery = consumer.delivery
    period = min(TEND_PERIOD, consumer.config.lease / 4)
    buried = time.monotonic()
    wait: float | None = None

    async def move() -> None:
        nonlocal wait
        _, wait = await delivery.move_due()

    async def bury() -> None:
        nonlocal buried
        if time.monotonic() - buried > BURY_PERIOD:
            buried = time.monotonic()
            await delivery.bury_consumers(int(DEAD_AFTER * 1000))

    async def trim() -> None:
        if consumer.config.retain == "acked":
            await trim_acknowledged(consumer.connection, consumer.topic)

    steps = {
        "moving delayed messages": move,
        "opening the retries": delivery.open_retry,
        "noting the mark": delivery.write_mark,
        "deleting dead consumers": bury,
        "trimming": trim,
    }
    while not consumer.stopping:
        pause = period * random.uniform(0.75, 1.25)
        await consumer.pause(pause if wait is None else min(pause, wait))
        if consumer.stopping:
            return
        wait = None
        for name, step in steps.items():
            await _do(consumer, name, step)


async def _do(consumer: StreamConsumer, name: str, step: Callable[[], Awaitable[None]]) -> None:
    """Do one step of a round. One that fails is said once, and keeps the others from nothing: at the memory limit it is
    the last that makes room."""
    try:
        await step()
    except NoGroupError:
        consumer.settler.group_lost = True  # the reader creates it again, even if it has no room to read
        consumer.settler.slots_available.ring()
    except StreamMachineError as error:
        if consumer.upkeep.get(name) != str(error):
            away = isinstance(error, (RedisUnavailableError, RedisFullError)) and not isinstance(error, RedisAuthError)
            level = logging.WARNING if away else logging.ERROR
            log.log(level, "Tending %r, %s: %s; trying again", consumer.topic, name, error)
        consumer.upkeep[name] = str(error)
        return
    consumer.upkeep.pop(name, None)

"""What a handler's argument is annotated as decides what it gets; what does not fit is a dead letter."""

import asyncio

from pydantic import BaseModel

from streammachine import App, DeadLetters, wait_until

app = App(name="typed")
totals = []


class Order(BaseModel):
    id: int
    total: float


@app.agent("orders")
async def add(order: Order):
    totals.append(order.total)


async def main():
    async with app:
        await app.send_batch("orders", [{"id": 1, "total": 12.5}, {"id": "two", "total": 1}, {"id": 3, "total": 2}])
        letters = await DeadLetters.open(app.redis, "orders")
        await wait_until(lambda: len(totals) == 2, what="both orders")
        await wait_until(lambda: letters.count(app.redis), what="the dead letter")
        (letter,), _ = await letters.newest(app.redis, 1)
    print("taken:", totals)
    print("refused:", letter.data, letter.fact("reason"))


asyncio.run(main())

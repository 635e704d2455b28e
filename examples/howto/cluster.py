"""The same App on a Redis Cluster: REDIS_URL=redis://host:7000?cluster=true, and one slot for what belongs together."""

import asyncio

from streammachine import App, Message

app = App(name="shop")


@app.agent("{orders}", group="billing", transactional=True)
async def bill(order: Message):
    # The braces make the slot: what a transactional handler writes must stand in that of its stream.
    await app.send("{orders}:bills", {"for": order.message["id"]})
    await order.state.incr("billed")


async def main():
    async with app:
        await app.send_batch("{orders}", [{"id": number} for number in range(5)])
        bills = []
        async for _, entry in app.redis.consumer("{orders}:bills", "reader", "printer", start_from_backlog=True):
            bills.append(entry.field_values[b"for"].decode())
            if len(bills) == 5:
                break
        print("bills for", ", ".join(bills))


asyncio.run(main())

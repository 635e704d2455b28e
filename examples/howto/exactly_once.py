"""An agent whose effects happen once, though its handler fails half-way and runs again."""

import asyncio

from streammachine import App, Message

app = App(name="bank")
failed = []


@app.agent("payments", group="ledger", concurrency=4, transactional=True)
async def book(payment: Message):
    await app.storage.incr("balance", int(payment.message["amount"]))
    await app.send("receipts", {"for": payment.message["id"]})
    if payment.attempt == 1 and payment.message["id"] == "3":
        failed.append(payment.message["id"])
        raise ConnectionError("after the balance was changed, as it seems")


async def main():
    async with app:
        await app.send_batch("payments", [{"id": number, "amount": 10} for number in range(10)])
        seen = 0
        async for _ in app.redis.consumer("receipts", "reader", "printer", start_from_backlog=True):
            seen += 1
            if seen == 10:
                break
        print("failed once:", failed)
        print("receipts:", seen, "balance:", await app.storage.read("balance"))


asyncio.run(main())

"""An agent's test, against a Valkey of its own that ends with the block."""

import asyncio

from streammachine import App, Message, Reject, TestApp

app = App(name="shop")


@app.agent("orders", transactional=True)
async def bill(order: Message):
    if float(order.message["amount"]) < 0:
        raise Reject("a negative amount")
    await app.send("bills", {"for": order.message["id"]})


async def main():
    async with TestApp(app) as test:
        await test.send("orders", {"id": "1", "amount": "9.50"})
        await test.send("orders", {"id": "2", "amount": "-1"})
        await test.wait_until_idle()
        print("bills:", await test.messages("bills"))
        (letter,) = await test.dead_letters("orders")
        print("refused:", letter["id"], letter["sm-error"])


asyncio.run(main())

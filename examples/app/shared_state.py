"""Shared state: a value that a timer counts and an agent reads."""

from streammachine import App, Message

app = App(name="stateful_example")


@app.timer(1)
async def counter():
    count = await app.storage.read("counter", default=0)
    count += 1
    await app.storage.write("counter", count)
    await app.send("counts", {"count": count})


@app.agent("counts", group="loggers")
async def logger(record: Message):
    stored = await app.storage.read("counter")
    print(f"Current count: {stored}, received: {record.message}")


if __name__ == "__main__":
    app.start()

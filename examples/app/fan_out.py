"""Multiple consumer groups (fan-out): each group gets every message."""

from streammachine import App, Message

app = App(name="fanout_example")


@app.timer(1)
async def producer():
    await app.send("events", {"type": "user_action", "user_id": "123"})


# Both groups receive ALL messages
@app.agent("events", group="analytics")
async def analytics(record: Message):
    print(f"Analytics: {record.message}")


@app.agent("events", group="audit")
async def audit(record: Message):
    print(f"Audit log: {record.message}")


if __name__ == "__main__":
    app.start()

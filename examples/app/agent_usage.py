"""An agent with its timer: fields, latency, a send, and a heartbeat every five seconds."""

import time

from streammachine import App, Message

app = App(name="my_app")


@app.agent("input_stream", group="workers", concurrency=2)
async def process_messages(record: Message):
    # Access decoded message
    data = record.message  # Dict[str, str]

    # Access timing info
    latency = record.timer  # "topic: task X.XX ms"

    # Send to another stream
    await app.send("output_stream", {"processed": "true"})
    print(data, latency)


@app.timer(5)  # Run every 5 seconds
async def periodic_task():
    await app.send("heartbeat", {"ts": time.time()})


if __name__ == "__main__":
    app.start()

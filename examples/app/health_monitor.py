"""Health monitoring: what an App says of itself, by a timer."""

from streammachine import App

app = App(name="health_example")


@app.timer(30)
async def health_monitor():
    health = await app.health_check()
    # Returns:
    # {
    #     "status": "healthy" | "degraded",
    #     "redis": "connected" | "disconnected",
    #     "active_tasks": N,
    #     "registered_agents": N,
    #     "registered_timers": N,
    # }
    print(f"Health: {health}")


if __name__ == "__main__":
    app.start()

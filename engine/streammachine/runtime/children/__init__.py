"""The child's side: a worker of an agent, the host of an App, loading a user's module."""

"""The MCP server over the StreamMachine engine. ``create_server`` in ``server.py`` builds it."""

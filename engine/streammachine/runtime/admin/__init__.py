"""What the command line and the MCP server ask of a running fleet: the roster, dead letters."""

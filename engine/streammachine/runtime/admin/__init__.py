"""Administration of a running fleet, for the command line and the MCP server: the agents there are, dead letters."""

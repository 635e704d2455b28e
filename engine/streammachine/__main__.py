"""python -m streammachine: the MCP server."""

from streammachine.mcp_server import main

if __name__ == "__main__":
    main()

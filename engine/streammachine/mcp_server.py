"""python -m streammachine.mcp_server: the MCP server."""

from typing import NoReturn


def main() -> NoReturn:
    """Run the MCP server (``streammachine-mcp``)."""
    from streammachine_mcp.entry import main as run

    run()


if __name__ == "__main__":
    main()

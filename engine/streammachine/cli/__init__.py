"""The ``streammachine`` command."""

from streammachine.cli.main import main as main

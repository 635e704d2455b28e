"""python -m streammachine.cli: the ``streammachine`` command."""

from streammachine.cli.main import main

if __name__ == "__main__":
    main()

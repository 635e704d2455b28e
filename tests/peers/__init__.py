"""Agent frameworks and the Inspector as clients of the server: what they make of its tools (test_peers.py).

Each ``with_NAME.py`` runs in an environment of its own, because they need other versions of the same libraries; its
first lines (PEP 723) say what is installed there. ``make peers`` makes the environments and runs the tests.
"""

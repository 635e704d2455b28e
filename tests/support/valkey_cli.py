"""What pages do with valkey-cli, which no package of ours brings: ``-s SOCKET`` or ``-u URL``, and a command."""

from __future__ import annotations

import sys

import redis


def main(option: str, place: str, *command: str) -> None:
    url = {"-s": f"unix://{place}", "-u": place}[option]
    with redis.Redis.from_url(url, decode_responses=True) as client:
        client.response_callbacks.clear()
        answer = client.execute_command(*command)
    print(answer if not isinstance(answer, bool) else "OK")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Where the primary of a Sentinel group is now.

Source: the Sentinel client guidelines: ask the Sentinels in turn, take the first that knows the group, and ask again
before every new connection, since a failover closes the old ones.
"""

from __future__ import annotations

from dataclasses import replace

from streammachine.errors import RedisUnavailableError
from streammachine.redis.transport.codec import RespError
from streammachine.redis.transport.raw_connection import RawConnection, encode_command
from streammachine.redis_url import Endpoint

ASK_TIMEOUT = 1.0  # seconds for one Sentinel's answer


async def primary_of(endpoint: Endpoint) -> Endpoint:
    """The endpoint of the group's primary; an endpoint without Sentinels is given back as it is.

    Raises:
        RedisUnavailableError: no Sentinel answers, or none knows the group.
    """
    if not endpoint.sentinels:
        return endpoint
    said: list[str] = []
    for host, port in endpoint.sentinels:
        asked = Endpoint(host=host, port=port, tls=endpoint.tls, options=endpoint.options)
        try:
            connection = await RawConnection.open(asked, f"{host}:{port}", named=False)
        except RedisUnavailableError:
            said.append(f"{host}:{port} does not answer")
            continue
        try:
            command = encode_command(["SENTINEL", "GET-MASTER-ADDR-BY-NAME", endpoint.group])
            (reply,) = await connection.exchange(command, 1, ASK_TIMEOUT)
        except RedisUnavailableError:
            said.append(f"{host}:{port} does not answer")
            continue
        finally:
            await connection.aclose()
        if reply is None or isinstance(reply, RespError):
            said.append(f"{host}:{port} knows no group {endpoint.group!r}")
            continue
        return replace(endpoint, host=bytes(reply[0]).decode(), port=int(reply[1]), sentinels=())
    raise RedisUnavailableError(
        f"The primary of {endpoint.group!r} cannot be found: {'; '.join(said)}. Correct REDIS_URL."
    )

"""A WebSocket's opening handshake: the exchange's limit of connections, the proxy, and what a refusal means."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import websockets
from websockets.asyncio.client import ClientConnection, connect

from streammachine.errors import ExchangeError
from streammachine.market.exchanges.base import SocketLimits
from streammachine.market.network import proxies
from streammachine.market.network.rate_budget import budget_for
from streammachine.masking import mask_text, mask_url

if TYPE_CHECKING:
    from streammachine.market.clock.clock import Clock

NOT_A_SOCKET: Final = (200, 404, 405, 410)  # HTTP status
MAX_FRAME: Final = 8 * 1024 * 1024  # bytes
FRAMES_AHEAD: Final = 64  # frames that wait to be read before the socket is not read any more


class NotOpenedError(Exception):
    """The handshake failed, and may succeed another time.

    Attributes:
        reason: why, in words. not_found: the server says that there is no WebSocket at the URL.
    """

    def __init__(self, reason: str, *, not_found: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.not_found = not_found


async def open_socket(url: str, limits: SocketLimits, clock: Clock, timeout: float) -> ClientConnection:
    """An open WebSocket, after as long a wait as the exchange's limit of connections demands.

    Args:
        url: a base URL of the exchange. limits: those of its sockets.
        timeout: seconds for the handshake.

    Raises:
        NotOpenedError: it did not come about.
        ExchangeError: the URL is not one of a WebSocket, or the environment names a proxy that cannot be used.
    """
    place = urlsplit(url).netloc.rpartition("@")[2]
    budget = budget_for(clock, f"connect {place}", limits.connects, limits.connects_within)
    now = clock.monotonic()
    await clock.sleep(budget.reserve(1, now) - now)
    proxy = proxies.websocket_proxy(url)
    through = f" through the proxy {proxies.without_login(proxy)}" if proxy else ""
    try:
        with clock.fail_after(clock.patience(timeout)):
            return await connect(
                url,
                compression=None,
                user_agent_header="streammachine",
                open_timeout=None,  # all waiting is by our clock
                ping_interval=None,
                close_timeout=None,
                max_size=MAX_FRAME,
                max_queue=FRAMES_AHEAD,
                proxy=proxy,
            )
    except (ImportError, websockets.InvalidProxy) as error:
        raise proxies.unusable(error) from error
    except (websockets.InvalidURI, ValueError) as error:
        raise ExchangeError(
            f"{mask_url(url)!r} is no address of a WebSocket: {mask_text(str(error))}; check the base URL"
        ) from None  # the cause holds the URL as it is
    except TimeoutError:
        raise NotOpenedError(f"no handshake within {timeout:g} s{through}") from None
    except websockets.InvalidStatus as error:
        status = error.response.status_code
        reason = f"{proxies.without_login(url)} answered HTTP {status}{through}"
        raise NotOpenedError(reason, not_found=status in NOT_A_SOCKET) from error
    except (OSError, EOFError, ssl.SSLError, websockets.WebSocketException) as error:
        raise NotOpenedError(f"cannot connect{through}: {error_text(error)}") from error


def error_text(error: BaseException) -> str:
    """An error in one line, without passwords."""
    return f"{type(error).__name__}: {mask_text(str(error))}" if str(error) else type(error).__name__

"""Limits the number of requests per client."""

import math
import time

from limits import parse_many
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import HTTPConnection

from src.mlops.serving.middleware import header
from src.mlops.serving.settings import Settings


class RateLimit:
    """A dependency that rejects requests of a client that sent too many. Each worker counts on its own.

    A client is an API key, or an IP address if no keys are configured.

    Args:
        settings: The settings of the service, with a rate limit.
    """

    def __init__(self, settings: Settings) -> None:
        self._limits = parse_many(settings.rate_limit)
        # The memory of a moving window keeps every client forever.
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._has_keys = settings.api_keys is not None

    async def __call__(self, connection: HTTPConnection) -> None:
        """Counts a request.

        Raises:
            HTTPException: 429, the client sent too many requests.
            WebSocketException: The client opened too many WebSockets.
        """
        address = connection.client.host if connection.client else ""
        client = header(connection.scope, b"x-api-key").decode("latin-1") if self._has_keys else address
        for limit in self._limits:
            if not self._limiter.hit(limit, client):
                detail = f"Too many requests; the limit is {limit}. Try again later."
                if connection.scope["type"] == "websocket":
                    raise WebSocketException(1008, detail)
                reset = self._limiter.get_window_stats(limit, client).reset_time
                raise HTTPException(429, detail, {"Retry-After": str(max(1, math.ceil(reset - time.time())))})

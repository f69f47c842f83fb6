"""Authentication: an API key for all routes that are not public, and a token for administration."""

import hmac

from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import SecretStr
from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import HTTPConnection

from src.mlops.serving.middleware import header
from src.mlops.serving.settings import Settings


class RequireKey(APIKeyHeader):
    """A dependency that accepts only requests with a valid API key.

    Args:
        settings: The settings of the service, with at least one key.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="X-API-Key", scheme_name="key", description="One of the keys in MLOPS_API_KEYS.")
        self._keys = [key.encode() for key in settings.listed(settings.api_keys)]

    async def __call__(self, connection: HTTPConnection) -> None:
        """Checks the header X-API-Key.

        Raises:
            HTTPException: 401, the key is missing or wrong.
            WebSocketException: The same for a WebSocket.
        """
        given = header(connection.scope, b"x-api-key")
        # Compares all keys in constant time. The response time then contains no information about them.
        if not sum(hmac.compare_digest(given, key) for key in self._keys):
            wrong = "The API key in the header X-API-Key is not valid."
            missing = "The API key is missing. Send it in the header X-API-Key."
            if connection.scope["type"] == "websocket":
                raise WebSocketException(1008, wrong if given else missing)
            raise HTTPException(401, wrong if given else missing, {"WWW-Authenticate": "X-API-Key"})


class RequireAdmin(HTTPBearer):
    """A dependency that accepts only requests with the admin token. Without a configured token, it rejects all.

    Args:
        token: The token; None if none is configured.
        variable: Name of the environment variable with the token.
    """

    def __init__(self, token: SecretStr | None, variable: str = "MLOPS_ADMIN_TOKEN") -> None:
        super().__init__(scheme_name="admin", description=f"The value of {variable}.")
        # Files that contain a token often end with a newline.
        self._token = token.get_secret_value().strip().encode() if token else b""

    async def __call__(self, connection: HTTPConnection) -> None:
        """Checks the header Authorization.

        Raises:
            HTTPException: 401, the token is missing or wrong.
        """
        scheme, _, given = header(connection.scope, b"authorization").partition(b" ")
        if not (self._token and scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._token)):
            raise HTTPException(
                401,
                "The admin token is missing or wrong. Send it in the header `Authorization: Bearer TOKEN`.",
                {"WWW-Authenticate": "Bearer"},
            )

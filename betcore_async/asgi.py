"""Request context for ASGI applications (Starlette, FastAPI, Litestar, …): every event of a request carries its ID.

app = RequestContextMiddleware(app)
"""

import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from betcore_async.logs import request_context

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

_REQUEST_ID = b"x-request-id"
_TRACEPARENT = b"traceparent"
# The messages that may carry response headers: websocket.accept, and the answer to a refused WebSocket, too.
_OPENINGS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
# https://www.w3.org/TR/trace-context/#traceparent-header; later versions may append fields, version 00 may not.
_TRACE = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<parent>[0-9a-f]{16})-[0-9a-f]{2}(?P<more>-.*)?"
)


class RequestContextMiddleware:
    """Binds `request_id` for each HTTP request and WebSocket, and returns it in the `X-Request-ID` header.

    An ID that comes with the request is kept if there is exactly one and it is 8 to 64 characters of
    `A-Z a-z 0-9 . _ -`; otherwise a new one is made. A valid `traceparent` binds `trace_id` and a `span_id` of our own.
    The context begins empty and ends with the request, also when the application raises.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        with request_context(_only(scope["headers"], _REQUEST_ID), **_span(scope["headers"])) as request_id:

            async def send_with_id(message: Message) -> None:
                if message["type"] in _OPENINGS:
                    others = [pair for pair in message.get("headers") or () if pair[0].lower() != _REQUEST_ID]
                    message = {**message, "headers": [*others, (_REQUEST_ID, request_id.encode())]}
                await send(message)

            await self.app(scope, receive, send_with_id)


def _only(headers: Headers, name: bytes) -> str | None:
    """Return the value of a header that is there exactly once. Two of a kind: someone in between disagrees."""
    values = [value for key, value in headers if key.lower() == name]
    return values[0].decode("latin-1") if len(values) == 1 else None


def _span(headers: Headers) -> dict[str, str]:
    """Return the trace that a valid `traceparent` names, and an ID for our part of it; else nothing."""
    match = _TRACE.fullmatch(_only(headers, _TRACEPARENT) or "")
    if match is None or match["version"] == "ff" or (match["version"] == "00" and match["more"] is not None):
        return {}
    if not (int(match["trace"], 16) and int(match["parent"], 16)):  # all zeros: the sender could not tell
        return {}
    return {"trace_id": match["trace"], "span_id": secrets.token_hex(8)}

"""Run it: `uvicorn examples.starlette_app:app`. Each event of a request carries the ID that the response returns."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from betcore_async.asgi import RequestContextMiddleware
from betcore_async.logs import configure_logging, get_logger

log = get_logger("example")


async def place(request: Request) -> PlainTextResponse:
    log.info("bet asked for", cell_id=request.path_params["cell_id"])
    return PlainTextResponse("thank you")


configure_logging()
app = RequestContextMiddleware(Starlette(routes=[Route("/cells/{cell_id}/bets", place, methods=["POST"])]))

"""RequestContextMiddleware with real applications: what is bound, what is returned, what is left behind."""

import importlib.util
import json
import logging
from pathlib import Path

import httpx
import pytest
import structlog
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route
from structlog.contextvars import bind_contextvars, get_contextvars

from betcore_async.asgi import RequestContextMiddleware

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


async def show(_request):
    return JSONResponse(get_contextvars())


async def fail(_request):
    bind_contextvars(user="bob")
    raise RuntimeError("on purpose")


def client_of(app) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=RequestContextMiddleware(app), raise_app_exceptions=True)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


@pytest.fixture
async def client():
    async with client_of(Starlette(routes=[Route("/", show), Route("/fail", fail)])) as client:
        yield client


async def test_a_valid_request_id_is_bound_and_returned(client):
    response = await client.get("/", headers={"X-Request-ID": "abc-123_4.5"})
    assert response.json() == {"request_id": "abc-123_4.5"}
    assert response.headers["x-request-id"] == "abc-123_4.5"


async def test_without_one_each_request_gets_a_new_id(client):
    first, second = await client.get("/"), await client.get("/")
    assert first.headers["x-request-id"] == first.json()["request_id"]
    assert first.json() != second.json()


@pytest.mark.parametrize(
    "hostile", ["short", "x" * 65, "a b c d e f", "a\tbcdefgh", "äöüäöüäöü", "-" * 5000, "<script>x"]
)
async def test_a_hostile_request_id_is_replaced(client, hostile):
    response = await client.get("/", headers=[(b"X-Request-ID", hostile.encode())])
    assert len(response.headers["x-request-id"]) == 36
    assert hostile not in response.text


async def test_two_request_ids_are_none(client):
    headers = [("X-Request-ID", "first-first"), ("x-request-id", "second-second")]
    response = await client.get("/", headers=headers)
    assert len(response.headers.get_list("x-request-id")) == 1
    assert response.headers["x-request-id"] not in {"first-first", "second-second"}


async def test_an_id_that_the_application_sets_gives_way_to_the_bound_one():
    async def answer(_request):
        return JSONResponse({}, headers={"X-Request-ID": "from-the-app"})

    async with client_of(Starlette(routes=[Route("/", answer)])) as client:
        response = await client.get("/", headers={"X-Request-ID": "from-caller"})
    assert response.headers.get_list("x-request-id") == ["from-caller"]


@pytest.mark.parametrize(
    "header", [f"00-{TRACE}-{PARENT}-01", f"cc-{TRACE}-{PARENT}-01", f"cc-{TRACE}-{PARENT}-01-what-more"]
)
async def test_a_valid_traceparent_binds_its_trace_and_a_span_of_our_own(client, header):
    first = (await client.get("/", headers={"traceparent": header})).json()
    second = (await client.get("/", headers={"traceparent": header})).json()
    assert first["trace_id"] == TRACE
    assert len(bytes.fromhex(first["span_id"])) == 8
    assert len({PARENT, first["span_id"], second["span_id"]}) == 3


@pytest.mark.parametrize(
    "header",
    [
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}",
        f"cc-{TRACE}-{PARENT}-01.more",
        f" 00-{TRACE}-{PARENT}-01x",
        "",
    ],
)
async def test_an_invalid_traceparent_is_ignored(client, header):
    assert (await client.get("/", headers={"traceparent": header})).json().keys() == {"request_id"}


async def test_two_traceparents_are_none(client):
    headers = [("traceparent", f"00-{TRACE}-{PARENT}-01")] * 2
    assert "trace_id" not in (await client.get("/", headers=headers)).json()


async def test_the_context_is_empty_at_entry_and_as_before_at_exit(client):
    bind_contextvars(tenant="a")
    response = await client.get("/")
    assert response.json().keys() == {"request_id"}
    assert get_contextvars() == {"tenant": "a"}


async def test_an_exception_passes_and_leaves_no_context(client):
    with pytest.raises(RuntimeError, match="on purpose"):
        await client.get("/fail")
    assert get_contextvars() == {}


async def test_streams_and_background_tasks_belong_to_their_request():
    seen = []

    async def chunks():
        yield get_contextvars()["request_id"]

    def after():
        seen.append(get_contextvars()["request_id"])

    async def stream(_request):
        return StreamingResponse(chunks(), background=BackgroundTask(after))

    async with client_of(Starlette(routes=[Route("/", stream)])) as client:
        response = await client.get("/", headers={"X-Request-ID": "request-1"})
    assert (response.text, seen) == ("request-1", ["request-1"])


def websocket_scope(*headers):
    return {"type": "websocket", "path": "/", "headers": list(headers)}


@pytest.mark.parametrize("opening", ["websocket.accept", "websocket.http.response.start"])
async def test_a_websocket_gets_its_id_in_the_opening_message_alone(opening):
    sent, bound = [], []

    async def app(_scope, _receive, send):
        bound.append(get_contextvars())
        await send({"type": opening, "headers": [(b"x-own", b"1")]})
        await send({"type": "websocket.send", "text": "hello"})

    async def send(message):
        sent.append(message)

    await RequestContextMiddleware(app)(websocket_scope((b"x-request-id", b"request-1")), None, send)
    assert bound == [{"request_id": "request-1"}]
    assert sent == [
        {"type": opening, "headers": [(b"x-own", b"1"), (b"x-request-id", b"request-1")]},
        {"type": "websocket.send", "text": "hello"},
    ]
    assert get_contextvars() == {}


async def test_lifespan_passes_through_untouched():
    seen = []

    async def app(scope, receive, send):
        seen.append((scope, receive, send, get_contextvars()))

    scope, receive, send = {"type": "lifespan"}, object(), object()
    await RequestContextMiddleware(app)(scope, receive, send)
    assert seen == [(scope, receive, send, {})]


@pytest.fixture
def example(capsysbinary):
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    path = Path(__file__).parents[2] / "examples" / "starlette_app.py"
    specification = importlib.util.spec_from_file_location("starlette_app", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    yield module
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


async def test_the_starlette_example_runs_and_logs_the_request_id(example, capsysbinary):
    transport = httpx.ASGITransport(app=example.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        response = await client.post("/cells/btc-5/bets", headers={"X-Request-ID": "request-1"})
    assert (response.text, response.headers["x-request-id"]) == ("thank you", "request-1")
    events = [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
    [event] = [event for event in events if event["component"] == "example"]
    assert (event["event"], event["cell_id"], event["request_id"]) == ("bet asked for", "btc-5", "request-1")

"""TLS: the server's certificate is checked, then everything goes as without."""

import asyncio
import ssl
import subprocess

import pytest

from betcore_async.config import RedisSettings
from betcore_async.errors import RedisUnavailableError
from betcore_async.redis import EmbeddedRedis, RedisClient


@pytest.fixture
def certificate(tmp_path):
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = subprocess.run(
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
        f" -keyout {key} -out {cert}".split(),
        capture_output=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return cert, key


@pytest.fixture
async def tls_port(certificate):
    """A server that ends TLS in front of a plain one."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)

    async def pump(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async with EmbeddedRedis() as server:

        async def accept(reader, writer):
            back_reader, back_writer = await asyncio.open_unix_connection(server.url.removeprefix("unix://"))
            await asyncio.gather(pump(reader, back_writer), pump(back_reader, writer), return_exceptions=True)
            for end in (writer, back_writer):
                end.transport.abort()

        listener = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
        async with listener:
            yield listener.sockets[0].getsockname()[1]


async def test_a_server_with_a_certificate_we_trust_is_talked_to(tls_port, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    async with RedisClient(RedisSettings.from_url(f"rediss://localhost:{tls_port}")) as client:
        await client.set("a", bytes(300_000))
        assert len(await client.get("a")) == 300_000
        async with client.subscribe("channel") as stream:
            await client.publish("channel", "x")
            assert (await anext(stream)).payload == b"x"


async def test_a_certificate_nobody_vouches_for_is_refused(tls_port):
    settings = RedisSettings.from_url(f"rediss://localhost:{tls_port}", timeout="500ms")
    with pytest.raises(RedisUnavailableError, match="certificate"):
        await RedisClient(settings).open()

"""The archive in a bucket: against a server that speaks S3, on loopback."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import traceback

import httpx
import pytest
from ledger_files import by_hand
from reliability.cancellation import cancel_at_piece
from weekly_files import ALWAYS, W, platform

from betcore_async.config import PartitionSettings
from betcore_async.errors import ArchiveDamagedError, ArchiveError
from betcore_async.partitions import PartitionManager, archive_store, archive_transfer

pytestmark = pytest.mark.usefixtures("object_stores")

SECRET = "wJalrXUtnFEMI-not-to-be-seen"


@pytest.fixture(scope="module")
def s3():
    """URL of a server of our own, with a bucket."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | {"S3_UPLOAD_PART_MIN_SIZE": "1"}  # as an object of many parts need not be big then
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            until = time.monotonic() + 40
            while server.poll() is None and time.monotonic() < until:
                with contextlib.suppress(httpx.HTTPError):
                    ask(f"{url}/bucket", "PUT")
                    break
                time.sleep(0.05)
            yield url
        finally:
            server.send_signal(signal.SIGKILL)


def ask(url, method="GET"):
    return httpx.request(method, url, timeout=20, trust_env=False).raise_for_status().content


@pytest.fixture
def credentials(s3, monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIANOTTOBESEEN",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3,
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
async def weeks(tmp_path, credentials):
    async with platform(tmp_path) as it:
        user = await it.users.create("0xabc", 10_000)
        for week in W[:6]:
            if week != W[0]:
                await it.next_week()
            await it.bets.settle((await it.bets.place(user.id, "cell", 100, 2.0)).id, won=True)
        it.user = user.id
        await it.manager.close()
        yield it


def manager(it, url="s3://bucket/some/prefix"):
    return PartitionManager(it.manager._database, PartitionSettings(archive_url=url), clock=it.clock)


async def test_a_week_goes_to_a_bucket_and_comes_back(weeks, s3):
    url = f"s3://bucket/{W[1]}-there-and-back"
    async with manager(weeks, url) as it:
        before = await it.query_bets(weeks.user, *ALWAYS)
        info = await it.archive(W[1])
        assert info.location == url
        listing = await asyncio.to_thread(ask, f"{s3}/bucket?prefix={W[1]}-there-and-back")
        assert listing.count(b"<Key>") == 2
        assert (await it.verify(W[1])).ok
        await it.restore(W[1])
        assert await it.query_bets(weeks.user, *ALWAYS) == before
        assert (await it.archive(W[1])).object == info.object


async def test_an_upload_of_many_parts_arrives_whole_and_one_that_is_cut_leaves_none(weeks, s3, monkeypatch):
    def noise(size):
        for _ in range(size // 2**20):
            yield os.urandom(2**20)
        if size % 2**20:
            raise RuntimeError("cut")

    def upload():
        store = archive_store.ArchiveStore("s3://bucket/parts", weeks.folder)
        store.upload("whole", noise(20 * 2**20))
        pieces = list(store.download("whole", 20 * 2**20))
        assert [len(piece) for piece in pieces] == [8 * 2**20, 8 * 2**20, 4 * 2**20]
        with pytest.raises(RuntimeError, match="cut"):
            store.upload("cut", noise(20 * 2**20 + 1))
        with pytest.raises(ArchiveDamagedError, match="is not there"):
            list(store.download("cut", 1))

    await asyncio.to_thread(upload)
    assert b"<Upload>" not in await asyncio.to_thread(ask, f"{s3}/bucket?uploads")


@pytest.mark.parametrize("name", ["archive", "restore"])
async def test_cancelled_at_any_piece_of_a_transfer_nothing_half_done_is_left_in_the_bucket(
    weeks, s3, name, monkeypatch
):
    monkeypatch.setattr(archive_store, "PART", 64 * 1024)
    monkeypatch.setattr(archive_transfer, "PIECE", 64 * 1024)
    with by_hand(weeks.file(W[1])) as raw:
        raw.execute("CREATE TABLE ballast AS SELECT randomblob(900000) AS noise")  # which cannot be compressed
    url = f"s3://bucket/cancelled-{name}"
    async with manager(weeks, url) as it:
        if name != "archive":
            await it.archive(W[1])
        struck = [True]
        while struck[-1]:
            struck.append(await cancel_at_piece(len(struck) - 1, getattr(it, name)(W[1])))
            assert b"<Upload>" not in await asyncio.to_thread(ask, f"{s3}/bucket?uploads")
            assert not list(weeks.folder.glob("*.restoring*"))
        assert len(struck) > 15
        assert (await it.verify(W[1])).ok
        await it.restore(W[1])
        assert len((await it.query_bets(weeks.user, *ALWAYS)).bets) == 6
        listing = await asyncio.to_thread(ask, f"{s3}/bucket?prefix=cancelled-{name}")
        assert listing.count(b"<Key>") == 2
        assert re.search(rb"<ETag>[^<]*-1\d", listing), listing  # of that many parts


async def test_damage_in_the_bucket_is_found(weeks, s3):
    url = "s3://bucket/damage"

    def flip(key):
        data = bytearray(ask(f"{s3}/bucket/damage/{key}"))
        data[len(data) // 2] ^= 1
        archive_store.ArchiveStore(url, weeks.folder).upload(key, [bytes(data)])

    async with manager(weeks, url) as it:
        info = await it.archive(W[1])
        await asyncio.to_thread(flip, info.object)
        assert "is damaged" in (await it.verify(W[1])).problems[0]
        with pytest.raises(ArchiveDamagedError):
            await it.restore(W[1])


@pytest.mark.parametrize(
    ("url", "endpoint"), [("s3://no-such-bucket/x", None), ("s3://bucket/x", "http://127.0.0.1:1")]
)
async def test_a_store_that_refuses_is_told_without_credentials_and_loses_nothing(weeks, url, endpoint, monkeypatch):
    monkeypatch.setattr(archive_store, "RETRIES", {"max_retries": 1})
    if endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    async with manager(weeks, url) as it:
        with pytest.raises(ArchiveError) as caught:
            await it.archive(W[1])
        assert caught.value.location == url
        shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(caught.value.facts)
        assert SECRET not in shown
        assert "AKIANOTTOBESEEN" not in shown
        assert len((await it.query_bets(weeks.user, *ALWAYS)).bets) == 6


async def test_a_server_without_tls_that_was_not_allowed_is_told_with_what_allows_it(weeks, monkeypatch):
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    async with manager(weeks, "s3://bucket/x") as it:
        with pytest.raises(ArchiveError, match="AWS_ALLOW_HTTP=true"):
            await it.archive(W[1])


def test_what_looks_like_a_signature_is_cut_from_the_reason():
    error = OSError(
        "Error performing PUT https://user:pw@host/c/k?sig=SECRET&se=1 in 3ms, status code: 403 Forbidden: <Key>ID"
        "\n\nDebug source: SECRET"
    )
    reason = archive_store._reason(error)
    assert reason == "Error performing PUT https://…@host/c/k?… in 3ms, status code: 403 Forbidden"

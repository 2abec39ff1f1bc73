"""A hop to a connection's thread that is cancelled in an awkward moment."""

import asyncio
import threading

from betcore_async.config import DatabaseSettings
from betcore_async.sqlite.connection import connect


async def test_cancel_in_the_turn_in_which_the_answer_arrives_does_not_wait_for_another(tmp_path):
    link = await connect(tmp_path / "a.db", DatabaseSettings())
    go_on = threading.Event()
    work = asyncio.ensure_future(link.run(lambda _: go_on.wait()))
    await asyncio.sleep(0)
    link_is_idle = threading.Event()
    link.post(link_is_idle.set)  # runs behind the hop, so by then the answer waits in the loop's queue
    go_on.set()
    link_is_idle.wait()  # holds the loop on purpose: answer and cancel shall meet in one turn
    work.cancel()
    await asyncio.wait([work], timeout=30)
    assert work.cancelled()
    assert await link.run(lambda raw: raw.execute("SELECT 1").fetchone()[0]) == 1
    await link.close()

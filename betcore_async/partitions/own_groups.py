"""Asking groups of weekly files on several threads at a time, and making one answer of theirs."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from betcore_async.partitions.catalog import Partition
from betcore_async.partitions.handles import StaleCatalogError
from betcore_async.partitions.own_sql import InGroups, Part, ask_group, keep, merged
from betcore_async.partitions.scanner import Scanner, Scanners
from betcore_async.sqlite.connection import Link
from betcore_async.sqlite.rows import Row
from betcore_async.tasks import task_group

IsCurrent = Callable[[Partition], bool]
"""Whether a file is still what the catalog says of its week; called on any thread."""

Take = Callable[[int, Part], Awaitable[bool]]
"""Takes in what the group of that number answered; False when that is enough."""


async def rows_of(scanners: Scanners, question: InGroups, is_current: IsCurrent) -> list[Row]:
    """Return the answer to a question in groups, each asked in a hop of its own, so that others get their turn.

    The first error stops all of them, and so does a cancellation. Raises StaleCatalogError where a file was sealed,
    detached or archived before its group was asked: then the question is to be asked anew.
    """
    async with scanners.merging() as link:
        if question.in_order:
            return await _merged(scanners, question, is_current, link)
        return await _one_after_the_other(scanners, question, is_current)


async def _merged(scanners: Scanners, question: InGroups, is_current: IsCurrent, link: Link) -> list[Row]:
    names: Sequence[str] = ()

    async def take(_: int, part: Part) -> bool:
        nonlocal names
        names = part.names
        await link.run(partial(keep, part=part))
        return True

    await _ask_all(scanners, question, is_current, take)
    return await link.run(partial(merged, question=question, names=names))


async def _one_after_the_other(scanners: Scanners, question: InGroups, is_current: IsCurrent) -> list[Row]:
    found: dict[int, list[Row]] = {}

    async def take(number: int, part: Part) -> bool:
        found[number] = part.rows
        return question.limit is None or sum(map(len, found.values())) < question.limit

    await _ask_all(scanners, question, is_current, take)
    return [row for number in sorted(found) for row in found[number]][: question.limit]


async def _ask_all(scanners: Scanners, question: InGroups, is_current: IsCurrent, take: Take) -> None:
    """Ask the groups in their order, as many at a time as there are scanners, until it is enough."""
    waiting = enumerate(question.groups())

    def ask(scanner: Scanner, files: Sequence[Partition]) -> Part:
        # Looked at here and not before the call stood in line: a week may have been detached meanwhile.
        if not all(map(is_current, (*files, question.reach.newest))):
            raise StaleCatalogError
        return ask_group(scanner, question, files)

    async def work() -> None:
        for number, files in waiting:
            part = await scanners.run(partial(ask, files=files), under_way=True)
            if not await take(number, part):
                break

    async with task_group() as group:
        for _ in range(scanners.limit):
            group.create_task(work())

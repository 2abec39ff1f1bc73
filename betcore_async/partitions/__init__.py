"""Weekly files: which there are, how the live one moves on, and queries over all of them."""

from betcore_async.partitions.archive import ArchiveInfo, ArchiveProgress, VerifyReport
from betcore_async.partitions.auto_rotation import AutoRotation
from betcore_async.partitions.info import BetCount, BetPage, PartitionInfo, QueryRows, RotationReport
from betcore_async.partitions.manager import PartitionManager
from betcore_async.partitions.meta import PartitionState
from betcore_async.partitions.question import Cursor
from betcore_async.partitions.router import PartitionRouter
from betcore_async.partitions.totals import BetTotals
from betcore_async.partitions.week import Week

__all__ = [
    "ArchiveInfo",
    "ArchiveProgress",
    "AutoRotation",
    "BetCount",
    "BetPage",
    "BetTotals",
    "Cursor",
    "PartitionInfo",
    "PartitionManager",
    "PartitionRouter",
    "PartitionState",
    "QueryRows",
    "RotationReport",
    "VerifyReport",
    "Week",
]

"""Ledger rows into models."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from betcore_async.clock import from_microseconds
from betcore_async.models import LedgerEntry

ENTRY_COLUMNS = "id, user_id, amount, balance_after, ref_type, ref_id, metadata, created_at"


def entries_from_rows(rows: Iterable[Sequence[Any]]) -> list[LedgerEntry]:
    """Return entries from rows in the order of `ENTRY_COLUMNS`."""
    return [
        LedgerEntry.trusted(
            {
                "id": row[0],
                "user_id": row[1],
                "amount": row[2],
                "balance_after": row[3],
                "ref_type": row[4],
                "ref_id": row[5],
                "metadata": None if row[6] is None else json.loads(row[6]),
                "created_at": from_microseconds(row[7]),
            }
        )
        for row in rows
    ]

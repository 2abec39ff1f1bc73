"""What the domain may do: users, bets and the ledger, as commands that an engine executes whole or not at all."""

from betcore_async.stores.audit_report import AuditReport, Unchecked, Violation
from betcore_async.stores.bets import BetStore, NewBet
from betcore_async.stores.commands import CellSettlement
from betcore_async.stores.engine import LedgerEngine
from betcore_async.stores.events import Event, EventKind
from betcore_async.stores.ledger import LedgerStore
from betcore_async.stores.sqlite_engine import SQLiteLedger
from betcore_async.stores.users import UserStore

__all__ = [
    "AuditReport",
    "BetStore",
    "CellSettlement",
    "Event",
    "EventKind",
    "LedgerEngine",
    "LedgerStore",
    "NewBet",
    "SQLiteLedger",
    "Unchecked",
    "UserStore",
    "Violation",
]

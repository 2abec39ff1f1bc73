"""UserStore: who there is, and what they own."""

from betcore_async.errors import UserNotFoundError
from betcore_async.models import LedgerEntry, User
from betcore_async.stores.commands import CreateUser, Deposit, Transfer, Withdraw, check_name
from betcore_async.stores.engine import LedgerEngine


class UserStore:
    """Accounts. Amounts are whole minor units; an `id` of the caller's own (a UUIDv7) makes a call safe to repeat."""

    def __init__(self, engine: LedgerEngine) -> None:
        self._engine = engine

    async def create(self, wallet_address: str, opening_balance: int = 0, *, id: str | None = None) -> User:  # noqa: A002 - public name
        """Open an account. Raises UserExistsError for a wallet address that has one."""
        return await self._engine.execute(
            CreateUser(self._engine.new_id() if id is None else id, wallet_address, opening_balance)
        )

    async def get(self, user_id: str) -> User:
        """Return a user as of now. Raises UserNotFoundError."""
        user = await self._engine.user(check_name(user_id, "user_id"))
        if user is None:
            raise UserNotFoundError(f"there is no user {user_id!r}", user_id=user_id)
        return user

    async def by_wallet(self, wallet_address: str) -> User:
        """Return the user of a wallet address. Raises UserNotFoundError."""
        user = await self._engine.user_by_wallet(check_name(wallet_address, "wallet_address"))
        if user is None:
            raise UserNotFoundError(f"there is no user with wallet {wallet_address!r}", wallet_address=wallet_address)
        return user

    async def deposit(
        self,
        user_id: str,
        amount: int,
        *,
        id: str | None = None,  # noqa: A002 - public name
        expected_version: int | None = None,
    ) -> LedgerEntry:
        """Add money from outside and return its ledger entry. Raises BalanceLimitError beyond 2^63 - 1.

        With `expected_version` it is done only if the user still has that `version`; else it raises
        ConcurrentUpdateError.
        """
        identifier = self._engine.new_id() if id is None else id
        return await self._engine.execute(Deposit(identifier, user_id, amount, expected_version))

    async def withdraw(
        self,
        user_id: str,
        amount: int,
        *,
        id: str | None = None,  # noqa: A002 - public name
        expected_version: int | None = None,
    ) -> LedgerEntry:
        """Pay money out and return its ledger entry. Raises InsufficientFundsError; `expected_version` as above."""
        identifier = self._engine.new_id() if id is None else id
        return await self._engine.execute(Withdraw(identifier, user_id, amount, expected_version))

    async def transfer(
        self,
        from_user_id: str,
        to_user_id: str,
        amount: int,
        *,
        id: str | None = None,  # noqa: A002 - public name
        expected_version: int | None = None,
    ) -> LedgerEntry:
        """Move money between two users at once and return the payer's entry.

        `expected_version` is the payer's, as in deposit. Raises InsufficientFundsError, BalanceLimitError.
        """
        identifier = self._engine.new_id() if id is None else id
        return await self._engine.execute(Transfer(identifier, from_user_id, to_user_id, amount, expected_version))

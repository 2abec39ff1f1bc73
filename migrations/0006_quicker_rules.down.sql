DROP TRIGGER bets_that_move_no_money_are_told;
DROP TRIGGER bets_that_were_refused_are_told;
DROP TRIGGER ledger_entries_are_kept;
DROP TRIGGER ledger_entries_are_never_changed;

ALTER TABLE ledger_entries RENAME TO quicker_entries;

CREATE TABLE ledger_entries (
    position      INTEGER PRIMARY KEY,
    id            TEXT    NOT NULL UNIQUE,
    user_id       TEXT    NOT NULL REFERENCES users (id),
    version       INTEGER NOT NULL CHECK (version >= 1),
    amount        INTEGER NOT NULL,
    balance_after INTEGER NOT NULL CHECK (balance_after >= 0),
    ref_type      TEXT    NOT NULL CHECK (ref_type IN (
        'opening', 'carry_forward', 'deposit', 'withdrawal', 'transfer_in', 'transfer_out', 'stake', 'payout', 'refund'
    )),
    ref_id        TEXT    NOT NULL,
    metadata      TEXT    CHECK (metadata GLOB '{*}'),
    created_at    INTEGER NOT NULL,
    UNIQUE (ref_id, ref_type),
    UNIQUE (user_id, version),
    CHECK ((amount < 0) = (ref_type IN ('withdrawal', 'transfer_out', 'stake')))
) STRICT;

INSERT INTO ledger_entries (position, id, user_id, version, amount, balance_after, ref_type, ref_id, metadata, created_at)
SELECT position, id, user_id, version, amount, balance_after, ref_type, ref_id, metadata, created_at
FROM quicker_entries
ORDER BY position;

DROP TABLE quicker_entries;

CREATE TRIGGER ledger_entries_are_never_changed
BEFORE UPDATE ON ledger_entries
BEGIN
    SELECT RAISE(ABORT, 'ledger entries are never changed');
END;

CREATE TRIGGER ledger_entries_are_kept
BEFORE DELETE ON ledger_entries
BEGIN
    SELECT RAISE(ABORT, 'ledger entries are never deleted');
END;

DROP TRIGGER bets_are_kept;
DROP TRIGGER bets_are_confirmed_once;
DROP TRIGGER bets_are_placed_in_their_week;
DROP TRIGGER bets_status_moves_forward;
DROP TRIGGER bets_terms_are_fixed;
DROP INDEX bets_by_user;
DROP INDEX bets_open_by_cell;

ALTER TABLE bets RENAME TO quicker_bets;

CREATE TABLE bets (
    id            TEXT    PRIMARY KEY,
    user_id       TEXT    NOT NULL REFERENCES users (id),
    cell_id       TEXT    NOT NULL,
    amount        INTEGER NOT NULL CHECK (amount > 0),
    reward_ppm    INTEGER NOT NULL CHECK (reward_ppm >= 1000000),
    status        TEXT    NOT NULL
        CHECK (status IN ('pending', 'confirmed', 'won', 'lost', 'cancelled', 'insufficient_funds')),
    placed_at     INTEGER NOT NULL,
    resolved_at   INTEGER CHECK (resolved_at >= placed_at),
    payout_amount INTEGER CHECK (payout_amount > 0),
    confirmed_at  INTEGER CHECK (confirmed_at >= placed_at),
    CHECK ((status IN ('pending', 'confirmed')) = (resolved_at IS NULL)),
    CHECK ((status = 'won') = (payout_amount IS NOT NULL))
) STRICT;

INSERT INTO bets
    (id, user_id, cell_id, amount, reward_ppm, status, placed_at, resolved_at, payout_amount, confirmed_at)
SELECT id, user_id, cell_id, amount, reward_ppm, status, placed_at, resolved_at, payout_amount, confirmed_at
FROM quicker_bets
ORDER BY rowid;

DROP TABLE quicker_bets;

CREATE INDEX bets_by_user ON bets (user_id, placed_at, id);
CREATE INDEX bets_open_by_cell ON bets (cell_id, id, status, amount) WHERE status IN ('pending', 'confirmed');

CREATE TRIGGER bets_are_placed_in_their_week
BEFORE INSERT ON bets
WHEN EXISTS (
    SELECT 1
    FROM partition_meta
    WHERE NEW.placed_at >= ends_at OR (NEW.placed_at < starts_at AND predecessor IS NULL)
)
BEGIN
    SELECT RAISE(ABORT, 'a bet is placed within the week of its file');
END;

CREATE TRIGGER bets_status_moves_forward
BEFORE UPDATE OF status, resolved_at, payout_amount ON bets
WHEN NOT (
    (OLD.status = 'pending' AND NEW.status IN ('confirmed', 'won', 'lost', 'cancelled'))
    OR (OLD.status = 'confirmed' AND NEW.status IN ('won', 'lost', 'cancelled'))
)
BEGIN
    SELECT RAISE(ABORT, 'a bet that is decided stays so, an open one moves along the states of a bet');
END;

CREATE TRIGGER bets_are_confirmed_once
BEFORE UPDATE OF confirmed_at ON bets
WHEN NOT (OLD.status = 'pending' AND NEW.status = 'confirmed')
BEGIN
    SELECT RAISE(ABORT, 'a bet keeps the moment at which it was confirmed');
END;

CREATE TRIGGER bets_terms_are_fixed
BEFORE UPDATE OF id, user_id, cell_id, amount, reward_ppm, placed_at ON bets
BEGIN
    SELECT RAISE(ABORT, 'the terms of a bet are fixed');
END;

CREATE TRIGGER bets_are_kept
BEFORE DELETE ON bets
BEGIN
    SELECT RAISE(ABORT, 'bets are never deleted');
END;

CREATE TRIGGER bets_that_move_no_money_are_told
AFTER UPDATE OF status ON bets
WHEN NEW.status IN ('confirmed', 'lost') AND EXISTS (SELECT 1 FROM outbox_cursor)
BEGIN
    INSERT INTO outbox (after, bet_id, status)
    VALUES ((SELECT coalesce(max(position), 0) FROM ledger_entries), NEW.id, NEW.status);
END;

CREATE TRIGGER bets_that_were_refused_are_told
AFTER INSERT ON bets
WHEN NEW.status = 'insufficient_funds' AND EXISTS (SELECT 1 FROM outbox_cursor)
BEGIN
    INSERT INTO outbox (after, bet_id, status)
    VALUES ((SELECT coalesce(max(position), 0) FROM ledger_entries), NEW.id, NEW.status);
END;

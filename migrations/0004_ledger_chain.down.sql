DROP TABLE ledger_chain;

DROP TRIGGER ledger_entries_are_kept;
DROP TRIGGER ledger_entries_are_never_changed;

ALTER TABLE ledger_entries RENAME TO chained_entries;

CREATE TABLE ledger_entries (
    id            TEXT    PRIMARY KEY,
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

INSERT INTO ledger_entries (id, user_id, version, amount, balance_after, ref_type, ref_id, metadata, created_at)
SELECT id, user_id, version, amount, balance_after, ref_type, ref_id, metadata, created_at
FROM chained_entries
ORDER BY position;

DROP TABLE chained_entries;

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

-- Chains the ledger: one SHA-256 for each transaction that wrote entries, over the one before it and those entries.

-- `position` is the order in which entries were written, and what the chain counts in. Declared INTEGER PRIMARY KEY it is
-- the row id itself, at no cost, and fixed: VACUUM may renumber the undeclared one.
DROP TRIGGER ledger_entries_are_kept;
DROP TRIGGER ledger_entries_are_never_changed;

ALTER TABLE ledger_entries RENAME TO unchained_entries;

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

INSERT INTO ledger_entries (id, user_id, version, amount, balance_after, ref_type, ref_id, metadata, created_at)
SELECT id, user_id, version, amount, balance_after, ref_type, ref_id, metadata, created_at
FROM unchained_entries
ORDER BY rowid;

DROP TABLE unchained_entries;

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

-- Link `seq` holds the hash over the entries behind the link before it, up to position `upto`. Link 0 is where a file takes
-- up the chain: behind the openings of its week, with the hash with which the week before ended. A ledger that begins in
-- its file has none.
CREATE TABLE ledger_chain (
    seq  INTEGER PRIMARY KEY CHECK (seq >= 0),
    upto INTEGER NOT NULL CHECK (upto >= 0),
    hash BLOB    NOT NULL CHECK (length(hash) = 32)
) STRICT;

CREATE TRIGGER ledger_chain_is_never_changed
BEFORE UPDATE ON ledger_chain
BEGIN
    SELECT RAISE(ABORT, 'the chain of the ledger is never changed');
END;

CREATE TRIGGER ledger_chain_is_kept
BEFORE DELETE ON ledger_chain
BEGIN
    SELECT RAISE(ABORT, 'the chain of the ledger is never deleted');
END;

-- Entries from before the chain stay outside of it.
INSERT INTO ledger_chain (seq, upto, hash)
SELECT 0, position, zeroblob(32)
FROM ledger_entries
ORDER BY position DESC
LIMIT 1;

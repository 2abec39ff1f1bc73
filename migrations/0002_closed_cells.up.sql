-- Which cells were settled, chunk by chunk, and when a bet was confirmed: what a repeated command came to the first time.

-- One row for each chunk of bets that was decided. With its first one a cell is closed: it takes no more bets.
-- A week begins with the rows of cells that were settled in the week before it, or are not settled to the end.
CREATE TABLE cell_settlements (
    cell_id    TEXT    NOT NULL,
    chunk      INTEGER NOT NULL CHECK (chunk >= 1),
    won        INTEGER NOT NULL CHECK (won IN (0, 1)),
    upto       TEXT    NOT NULL, -- id of the last bet that it looked at
    bets       INTEGER NOT NULL CHECK (bets >= 0),
    payout     INTEGER NOT NULL CHECK (payout >= 0 AND (won OR payout = 0)),
    unpaid     INTEGER NOT NULL CHECK (unpaid >= 0), -- won, but left open: the balance of the user cannot grow so much
    is_last    INTEGER NOT NULL CHECK (is_last IN (0, 1)),
    settled_at INTEGER NOT NULL,
    PRIMARY KEY (cell_id, chunk)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER cell_settlements_are_never_changed
BEFORE UPDATE ON cell_settlements
BEGIN
    SELECT RAISE(ABORT, 'settlements of cells are never changed');
END;

CREATE TRIGGER cell_settlements_are_kept
BEFORE DELETE ON cell_settlements
BEGIN
    SELECT RAISE(ABORT, 'settlements of cells are never deleted');
END;

ALTER TABLE bets ADD COLUMN confirmed_at INTEGER CHECK (confirmed_at >= placed_at);

CREATE TRIGGER bets_are_confirmed_once
BEFORE UPDATE OF confirmed_at ON bets
WHEN NOT (OLD.status = 'pending' AND NEW.status = 'confirmed')
BEGIN
    SELECT RAISE(ABORT, 'a bet keeps the moment at which it was confirmed');
END;

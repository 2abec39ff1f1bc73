-- What happened and has still to be told. Most of it stands in the ledger already, in the order of `position`; here is only
-- what moved no money, and up to where all of it was told.

-- One row while events are told; without it nothing is noted. It goes on into the next week, and points into the week in
-- which the next event lies. The number of an event is base + position + seq: it grows from event to event, over all weeks.
CREATE TABLE outbox_cursor (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    week     TEXT    NOT NULL,
    position INTEGER NOT NULL CHECK (position >= 0), -- of the last ledger entry that was told
    seq      INTEGER NOT NULL CHECK (seq >= 0),      -- of the last row of `outbox` that was told
    base     INTEGER NOT NULL CHECK (base >= 0)
) STRICT;

-- Told right after the ledger entry at position `after`. Rows that were told are deleted, but for the last one, which keeps
-- its number from being used again.
CREATE TABLE outbox (
    seq    INTEGER PRIMARY KEY,
    after  INTEGER NOT NULL,
    bet_id TEXT    NOT NULL,
    status TEXT    NOT NULL CHECK (status IN ('confirmed', 'lost', 'insufficient_funds'))
) STRICT;

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

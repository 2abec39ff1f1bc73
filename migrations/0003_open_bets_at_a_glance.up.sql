-- All that a rotation compares of the open bets is in one index: the bets themselves are not read while writers wait.
DROP INDEX bets_open_by_cell;
CREATE INDEX bets_open_by_cell ON bets (cell_id, id, status, amount) WHERE status IN ('pending', 'confirmed');

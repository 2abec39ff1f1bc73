DROP TRIGGER bets_are_confirmed_once;
ALTER TABLE bets DROP COLUMN confirmed_at;
DROP TABLE cell_settlements;

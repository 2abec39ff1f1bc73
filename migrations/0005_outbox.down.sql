DROP TRIGGER bets_that_were_refused_are_told;
DROP TRIGGER bets_that_move_no_money_are_told;
DROP TABLE outbox;
DROP TABLE outbox_cursor;

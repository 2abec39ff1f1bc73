DROP INDEX bets_open_by_cell;
CREATE INDEX bets_open_by_cell ON bets (cell_id, id) WHERE status IN ('pending', 'confirmed');

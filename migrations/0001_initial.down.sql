DROP TABLE ledger_entries;
DROP TABLE bets;
DROP TABLE users;
DROP TABLE partition_meta;

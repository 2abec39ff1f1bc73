"""The rules of the audit inside one file. Each query returns `(table, id, detail)` for every row that breaks its rule.

None sorts or collects rows: each follows an index or looks at row after row, so memory does not grow with the week.
`{this}` is the file under audit, `{starts_at}` and `{ends_at}` are the bounds of its week.
"""

from typing import NamedTuple

THERE = "rows refer to rows that are there"


class Found(NamedTuple):
    """A row that breaks a rule."""

    rule: str
    table: str | None
    subject: str
    detail: str
    positions: tuple[int, int] | None = None


WITHIN = {
    "a funded bet has its stake": """
SELECT 'bets', bets.id, 'amount ' || bets.amount || ' at ' || bets.placed_at || ', stake '
    || coalesce(stake.amount || ' at ' || stake.created_at, 'none')
FROM {this}.bets AS bets
JOIN {this}.partition_meta AS meta ON bets.placed_at >= meta.starts_at
LEFT JOIN {this}.ledger_entries AS stake ON stake.ref_type = 'stake' AND stake.ref_id = bets.id
WHERE bets.status <> 'insufficient_funds'
  AND (
    stake.id IS NULL OR stake.amount <> -bets.amount OR stake.user_id <> bets.user_id
    OR stake.created_at <> bets.placed_at
  )
""",
    "a stake has its funded bet": """
SELECT 'ledger_entries', stake.id, 'for bet ' || stake.ref_id || ', ' || coalesce(bets.status, 'which is not there')
FROM {this}.ledger_entries AS stake
LEFT JOIN {this}.bets AS bets ON bets.id = stake.ref_id
WHERE stake.ref_type = 'stake' AND (bets.id IS NULL OR bets.status = 'insufficient_funds')
""",
    "a won bet is paid amount × rate": """
SELECT 'bets', bets.id, 'payout_amount ' || coalesce(bets.payout_amount, 'none') || ' at '
    || coalesce(bets.resolved_at, 'no time') || ', entry ' || coalesce(paid.amount || ' at ' || paid.created_at, 'none')
FROM {this}.bets AS bets
LEFT JOIN {this}.ledger_entries AS paid ON paid.ref_type = 'payout' AND paid.ref_id = bets.id
WHERE bets.status = 'won'
  AND (
    paid.id IS NULL OR paid.amount IS NOT bets.payout_amount OR paid.user_id <> bets.user_id
    OR bets.payout_amount
        <> bets.amount / 1000000 * bets.reward_ppm + bets.amount % 1000000 * bets.reward_ppm / 1000000
    OR bets.resolved_at IS NOT max(bets.placed_at, paid.created_at)
  )
""",
    "a payout has its won bet": """
SELECT 'ledger_entries', paid.id, 'for bet ' || paid.ref_id || ', ' || coalesce(bets.status, 'which is not there')
FROM {this}.ledger_entries AS paid
LEFT JOIN {this}.bets AS bets ON bets.id = paid.ref_id
WHERE paid.ref_type = 'payout' AND bets.status IS NOT 'won'
""",
    "a cancelled bet is refunded": """
SELECT 'bets', bets.id, 'amount ' || bets.amount || ' at ' || coalesce(bets.resolved_at, 'no time') || ', refund '
    || coalesce(refund.amount || ' at ' || refund.created_at, 'none')
FROM {this}.bets AS bets
LEFT JOIN {this}.ledger_entries AS refund ON refund.ref_type = 'refund' AND refund.ref_id = bets.id
WHERE bets.status = 'cancelled'
  AND (
    refund.id IS NULL OR refund.amount <> bets.amount OR refund.user_id <> bets.user_id
    OR bets.resolved_at IS NOT max(bets.placed_at, refund.created_at)
  )
""",
    "a refund has its cancelled bet": """
SELECT 'ledger_entries', refund.id, 'for bet ' || refund.ref_id || ', ' || coalesce(bets.status, 'which is not there')
FROM {this}.ledger_entries AS refund
LEFT JOIN {this}.bets AS bets ON bets.id = refund.ref_id
WHERE refund.ref_type = 'refund' AND bets.status IS NOT 'cancelled'
""",
    "a transfer has two sides": """
SELECT 'ledger_entries', one.id, one.ref_type || ' of ' || one.amount || ', the other side '
    || coalesce(other.amount, 'is not there')
FROM {this}.ledger_entries AS one
LEFT JOIN {this}.ledger_entries AS other
    ON other.ref_id = one.ref_id
    AND other.ref_type = CASE one.ref_type WHEN 'transfer_in' THEN 'transfer_out' ELSE 'transfer_in' END
WHERE one.ref_type IN ('transfer_in', 'transfer_out')
  AND (other.id IS NULL OR other.amount <> -one.amount OR other.user_id = one.user_id)
""",
    "money moves the way its entry says": """
SELECT 'ledger_entries', id, ref_type || ' of ' || amount
FROM {this}.ledger_entries
WHERE (amount < 0) <> (ref_type IN ('withdrawal', 'transfer_out', 'stake'))
    OR ref_type NOT IN ('opening', 'carry_forward', 'deposit', 'withdrawal', 'transfer_in', 'transfer_out', 'stake',
        'payout', 'refund')
""",
    "rows lie in their week": """
SELECT 'ledger_entries', entries.id, 'written at ' || entries.created_at
FROM {this}.ledger_entries AS entries
CROSS JOIN {this}.partition_meta AS meta
WHERE entries.created_at NOT BETWEEN starts_at AND ends_at - 1
UNION ALL
SELECT 'bets', bets.id, 'placed at ' || bets.placed_at || coalesce(', decided at ' || bets.resolved_at, '')
FROM {this}.bets AS bets
CROSS JOIN {this}.partition_meta AS meta
WHERE bets.placed_at >= ends_at OR (bets.placed_at < starts_at AND predecessor IS NULL)
    OR bets.resolved_at NOT BETWEEN max(starts_at, bets.placed_at) AND ends_at - 1
    OR bets.confirmed_at NOT BETWEEN bets.placed_at AND ends_at - 1
""",
    "a user opens when it was made": """
SELECT 'users', users.id, 'made at ' || users.created_at || ', opened at ' || opening.created_at
FROM {this}.ledger_entries AS opening
JOIN {this}.users AS users ON users.id = opening.ref_id
WHERE opening.ref_type = 'opening' AND opening.created_at <> users.created_at
""",
    "the columns of a bet fit its status": """
SELECT 'bets', id, status || ', decided ' || coalesce('at ' || resolved_at, 'never') || ', payout '
    || coalesce(payout_amount, 'none')
FROM {this}.bets
WHERE (status IN ('pending', 'confirmed')) <> (resolved_at IS NULL) OR (status = 'won') <> (payout_amount IS NOT NULL)
    OR (status IN ('pending', 'insufficient_funds') AND confirmed_at IS NOT NULL)
    OR status NOT IN ('pending', 'confirmed', 'won', 'lost', 'cancelled', 'insufficient_funds')
""",
    "the first week carries nothing forward": """
SELECT 'ledger_entries', entries.id, 'carries forward ' || amount
FROM {this}.ledger_entries AS entries
CROSS JOIN {this}.partition_meta AS meta
WHERE ref_type = 'carry_forward' AND predecessor IS NULL
""",
    "what is carried forward was written with its week": """
SELECT 'ledger_entries', opening.id, 'written at ' || opening.created_at || ', its week was made at '
    || meta.created_at || ', metadata ' || coalesce(opening.metadata, 'none')
FROM {this}.ledger_entries AS opening
CROSS JOIN {this}.partition_meta AS meta
WHERE opening.ref_type = 'carry_forward'
  AND (opening.created_at <> meta.created_at OR opening.metadata IS NOT NULL)
""",
    "a settled cell has no open bets": """
SELECT 'cell_settlements', cell_id, open || ' open bets, of which ' || unpaid || ' could not be paid'
FROM (
    SELECT cell_id, sum(unpaid) AS unpaid, (
        SELECT count(*)
        FROM {this}.bets
        WHERE bets.cell_id = cell_settlements.cell_id AND bets.status IN ('pending', 'confirmed')
    ) AS open
    FROM {this}.cell_settlements
    GROUP BY cell_id
    HAVING max(is_last) = 1
)
WHERE open > unpaid
""",
    "a cell is settled one way, chunk after chunk": """
SELECT 'cell_settlements', cell_id, count(*) || ' chunks, numbered '
    || min(chunk) || ' to ' || max(chunk) || '; ' || sum(won) || ' won'
FROM {this}.cell_settlements
GROUP BY cell_id
HAVING min(chunk) <> 1 OR max(chunk) <> count(*) OR min(won) <> max(won)
    OR max(chunk) FILTER (WHERE is_last) <> max(chunk)
""",
    THERE: """
SELECT 'bets', (SELECT min(id) FROM {this}.bets WHERE user_id = placed.user_id), 'a bet of user ' || placed.user_id
    || ', who is not there'
FROM (SELECT DISTINCT user_id FROM {this}.bets) AS placed
LEFT JOIN {this}.users AS users ON users.id = placed.user_id
WHERE users.id IS NULL
""",
    "the file says which week it is": """
SELECT 'partition_meta', week, starts_at || ' to ' || ends_at || ', ' || state || ', successor '
    || coalesce(successor, 'none')
FROM {this}.partition_meta
WHERE starts_at <> {starts_at} OR ends_at <> {ends_at} OR (state = 'sealed') <> (successor IS NOT NULL)
    OR (state = 'sealed') <> (sealed_at IS NOT NULL)
""",
    "what is to be told is there": """
SELECT 'outbox', seq, 'note ' || seq || ' follows ' || previous
FROM (
    SELECT seq, lag(seq, 1, told) OVER (ORDER BY seq) AS previous
    FROM (
        SELECT CASE WHEN cursor.week = meta.week THEN cursor.seq ELSE 0 END AS told
        FROM {this}.outbox_cursor AS cursor
        CROSS JOIN {this}.partition_meta AS meta
    )
    JOIN {this}.outbox ON seq > told
)
WHERE seq <> previous + 1
UNION ALL
SELECT 'outbox', outbox.seq, 'tells of bet ' || bet_id || ' as ' || outbox.status || ', '
    || coalesce('which is ' || bets.status, 'which is not there')
FROM {this}.outbox AS outbox
LEFT JOIN {this}.bets AS bets ON bets.id = outbox.bet_id
WHERE bets.id IS NULL OR (outbox.status = 'confirmed' AND bets.confirmed_at IS NULL)
    OR (outbox.status <> 'confirmed' AND outbox.status <> bets.status)
""",
    "what was told has happened": """
SELECT 'outbox_cursor', cursor.week, 'told up to entry ' || cursor.position || ' and note ' || cursor.seq
    || ', of which there are fewer'
FROM {this}.outbox_cursor AS cursor
WHERE cursor.week = (SELECT week FROM {this}.partition_meta)
  AND (
    cursor.position > (SELECT coalesce(max(position), 0) FROM {this}.ledger_entries)
    OR cursor.seq > (SELECT coalesce(max(seq), 0) FROM {this}.outbox)
  )
""",
}
"""What has to hold inside one file."""

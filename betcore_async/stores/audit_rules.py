"""The rules of the audit. Each query returns `(subject, detail)` for every row that breaks its rule; none is right.

`{this}` is the file under audit, `{before}` the one of the week before it.
"""

WITHIN = {
    "balance == sum of entries": """
SELECT users.id, 'balance ' || balance || ', entries sum to ' || coalesce(total, 0)
FROM {this}.users AS users
LEFT JOIN (
    SELECT user_id, sum(amount) AS total
    FROM {this}.ledger_entries
    GROUP BY user_id
) ON user_id = users.id
WHERE balance <> coalesce(total, 0)
""",
    "balance_after is the running balance": """
SELECT id, 'balance_after ' || balance_after || ', running balance ' || running
FROM (
    SELECT id, balance_after, sum(amount) OVER (PARTITION BY user_id ORDER BY version) AS running
    FROM {this}.ledger_entries
)
WHERE balance_after <> running
""",
    "versions are dense": """
SELECT id, 'version ' || version || ' follows ' || previous
FROM (
    SELECT id, version, lag(version) OVER (PARTITION BY user_id ORDER BY version) AS previous
    FROM {this}.ledger_entries
)
WHERE version <> previous + 1
""",
    "each user has one opening, and it comes first": """
SELECT users.id, coalesce(openings, 0) || ' openings, the first entry is ' || coalesce(
    (SELECT ref_type FROM {this}.ledger_entries WHERE user_id = users.id ORDER BY version LIMIT 1), 'not there'
)
FROM {this}.users AS users
LEFT JOIN (
    SELECT user_id, min(version) AS first,
        count(*) FILTER (WHERE ref_type IN ('opening', 'carry_forward')) AS openings,
        min(version) FILTER (WHERE (ref_type = 'opening' AND version = 1 OR ref_type = 'carry_forward')
            AND ref_id = user_id) AS opened
    FROM {this}.ledger_entries
    GROUP BY user_id
) ON user_id = users.id
WHERE openings IS NOT 1 OR opened IS NOT first
""",
    "the last entry has the user's version": """
SELECT users.id, 'version ' || users.version || ', last entry ' || coalesce(last, 0)
FROM {this}.users AS users
LEFT JOIN (
    SELECT user_id, max(version) AS last
    FROM {this}.ledger_entries
    GROUP BY user_id
) ON user_id = users.id
WHERE users.version <> coalesce(last, 0)
""",
    "a funded bet has its stake": """
SELECT bets.id, 'amount ' || bets.amount || ', stake ' || coalesce(stake.amount, 'none')
FROM {this}.bets AS bets
JOIN {this}.partition_meta AS meta ON bets.placed_at >= meta.starts_at
LEFT JOIN {this}.ledger_entries AS stake ON stake.ref_type = 'stake' AND stake.ref_id = bets.id
WHERE bets.status <> 'insufficient_funds'
  AND (stake.id IS NULL OR stake.amount <> -bets.amount OR stake.user_id <> bets.user_id)
""",
    "a stake has its funded bet": """
SELECT stake.id, 'for bet ' || stake.ref_id || ', ' || coalesce(bets.status, 'which is not there')
FROM {this}.ledger_entries AS stake
LEFT JOIN {this}.bets AS bets ON bets.id = stake.ref_id
WHERE stake.ref_type = 'stake' AND (bets.id IS NULL OR bets.status = 'insufficient_funds')
""",
    "a won bet is paid amount × rate": """
SELECT bets.id, 'payout_amount ' || bets.payout_amount || ', entry ' || coalesce(paid.amount, 'none')
FROM {this}.bets AS bets
LEFT JOIN {this}.ledger_entries AS paid ON paid.ref_type = 'payout' AND paid.ref_id = bets.id
WHERE bets.status = 'won'
  AND (
    paid.id IS NULL OR paid.amount IS NOT bets.payout_amount OR paid.user_id <> bets.user_id
    OR bets.payout_amount
        <> bets.amount / 1000000 * bets.reward_ppm + bets.amount % 1000000 * bets.reward_ppm / 1000000
  )
""",
    "a payout has its won bet": """
SELECT paid.id, 'for bet ' || paid.ref_id || ', ' || coalesce(bets.status, 'which is not there')
FROM {this}.ledger_entries AS paid
LEFT JOIN {this}.bets AS bets ON bets.id = paid.ref_id
WHERE paid.ref_type = 'payout' AND bets.status IS NOT 'won'
""",
    "a cancelled bet is refunded": """
SELECT bets.id, 'amount ' || bets.amount || ', refund ' || coalesce(refund.amount, 'none')
FROM {this}.bets AS bets
LEFT JOIN {this}.ledger_entries AS refund ON refund.ref_type = 'refund' AND refund.ref_id = bets.id
WHERE bets.status = 'cancelled'
  AND (refund.id IS NULL OR refund.amount <> bets.amount OR refund.user_id <> bets.user_id)
""",
    "a refund has its cancelled bet": """
SELECT refund.id, 'for bet ' || refund.ref_id || ', ' || coalesce(bets.status, 'which is not there')
FROM {this}.ledger_entries AS refund
LEFT JOIN {this}.bets AS bets ON bets.id = refund.ref_id
WHERE refund.ref_type = 'refund' AND bets.status IS NOT 'cancelled'
""",
    "a transfer has two sides": """
SELECT one.id, one.ref_type || ' of ' || one.amount || ', the other side ' || coalesce(other.amount, 'is not there')
FROM {this}.ledger_entries AS one
LEFT JOIN {this}.ledger_entries AS other
    ON other.ref_id = one.ref_id
    AND other.ref_type = CASE one.ref_type WHEN 'transfer_in' THEN 'transfer_out' ELSE 'transfer_in' END
WHERE one.ref_type IN ('transfer_in', 'transfer_out')
  AND (other.id IS NULL OR other.amount <> -one.amount OR other.user_id = one.user_id)
""",
    "money moves the way its entry says": """
SELECT id, ref_type || ' of ' || amount
FROM {this}.ledger_entries
WHERE (amount < 0) <> (ref_type IN ('withdrawal', 'transfer_out', 'stake'))
""",
    "rows lie in their week": """
SELECT entries.id, 'written at ' || entries.created_at
FROM {this}.ledger_entries AS entries
CROSS JOIN {this}.partition_meta AS meta
WHERE entries.created_at NOT BETWEEN starts_at AND ends_at - 1
UNION ALL
SELECT bets.id, 'placed at ' || bets.placed_at
FROM {this}.bets AS bets
CROSS JOIN {this}.partition_meta AS meta
WHERE bets.placed_at >= ends_at OR bets.resolved_at >= ends_at OR bets.resolved_at < bets.placed_at
    OR (bets.placed_at < starts_at AND predecessor IS NULL)
""",
    "the first week carries nothing forward": """
SELECT entries.id, 'carries forward ' || amount
FROM {this}.ledger_entries AS entries
CROSS JOIN {this}.partition_meta AS meta
WHERE ref_type = 'carry_forward' AND predecessor IS NULL
""",
    "a settled cell has no open bets": """
SELECT cell_id, open || ' open bets, of which ' || unpaid || ' could not be paid'
FROM (
    SELECT cell_id, sum(unpaid) AS unpaid
    FROM {this}.cell_settlements
    GROUP BY cell_id
    HAVING max(is_last) = 1
)
JOIN (
    SELECT cell_id, count(*) AS open
    FROM {this}.bets
    WHERE status IN ('pending', 'confirmed')
    GROUP BY cell_id
) USING (cell_id)
WHERE open > unpaid
""",
    "a cell is settled one way, chunk after chunk": """
SELECT cell_id, count(*) || ' chunks, numbered ' || min(chunk) || ' to ' || max(chunk) || '; ' || sum(won) || ' won'
FROM {this}.cell_settlements
GROUP BY cell_id
HAVING min(chunk) <> 1 OR max(chunk) <> count(*) OR min(won) <> max(won)
    OR max(chunk) FILTER (WHERE is_last) <> max(chunk)
""",
    "rows refer to rows that are there": """
SELECT bets.id, 'a bet of user ' || user_id || ', who is not there'
FROM {this}.bets AS bets
LEFT JOIN {this}.users AS users ON users.id = bets.user_id
WHERE users.id IS NULL
UNION ALL
SELECT entries.id, 'an entry of user ' || user_id || ', who is not there'
FROM {this}.ledger_entries AS entries
LEFT JOIN {this}.users AS users ON users.id = entries.user_id
WHERE users.id IS NULL
""",
}
"""What has to hold inside one file."""

ACROSS = {
    "a balance opens as it closed the week before": """
SELECT was.id, 'closed with ' || was.balance || ' at version ' || was.version
    || ', opened with ' || coalesce(opening.amount || ' at version ' || opening.version, 'nothing')
FROM {before}.users AS was
LEFT JOIN {this}.ledger_entries AS opening ON opening.ref_type = 'carry_forward' AND opening.ref_id = was.id
WHERE opening.id IS NULL OR opening.amount <> was.balance OR opening.version <> was.version
    OR opening.user_id <> was.id
""",
    "a user goes on in the next week": """
SELECT was.id, coalesce('wallet ' || was.wallet_address || ' became ' || now.wallet_address, 'is gone')
FROM {before}.users AS was
LEFT JOIN {this}.users AS now ON now.id = was.id
WHERE now.id IS NULL OR now.wallet_address <> was.wallet_address OR now.created_at <> was.created_at
""",
    "what is carried forward was there": """
SELECT opening.id, 'carries forward ' || opening.ref_id || ', who was not there'
FROM {this}.ledger_entries AS opening
LEFT JOIN {before}.users AS was ON was.id = opening.ref_id
WHERE opening.ref_type = 'carry_forward' AND was.id IS NULL
""",
    "an open bet goes on in the next week": """
SELECT was.id, 'was ' || was.status || ' at the end of its week, ' || coalesce('is now ' || now.status, 'is gone')
FROM {before}.bets AS was
LEFT JOIN {this}.bets AS now ON now.id = was.id
WHERE was.status IN ('pending', 'confirmed')
  AND (
    now.id IS NULL OR now.user_id <> was.user_id OR now.cell_id <> was.cell_id OR now.amount <> was.amount
    OR now.reward_ppm <> was.reward_ppm OR now.placed_at <> was.placed_at
  )
""",
    "a carried bet was open before": """
SELECT now.id, 'is carried over, ' || coalesce('and was ' || was.status, 'and was not there')
FROM {this}.bets AS now
JOIN {this}.partition_meta AS meta ON now.placed_at < meta.starts_at
LEFT JOIN {before}.bets AS was ON was.id = now.id
WHERE was.id IS NULL OR was.status NOT IN ('pending', 'confirmed')
""",
    "a closed cell stays closed in the next week": """
SELECT was.cell_id, 'chunk ' || was.chunk || ' was settled, ' || CASE
    WHEN now.cell_id IS NULL THEN 'and is not there' ELSE 'and is another one now'
END
FROM {before}.cell_settlements AS was
LEFT JOIN {this}.cell_settlements AS now ON now.cell_id = was.cell_id AND now.chunk = was.chunk
WHERE was.cell_id IN (
    SELECT cell_id
    FROM {before}.cell_settlements
    GROUP BY cell_id
    HAVING max(settled_at) >= (SELECT starts_at FROM {before}.partition_meta) OR max(is_last) = 0
)
AND (
    now.cell_id IS NULL OR now.won <> was.won OR now.upto <> was.upto OR now.bets <> was.bets
    OR now.payout <> was.payout OR now.unpaid <> was.unpaid OR now.settled_at <> was.settled_at
)
""",
    "what happened once is in one week": """
SELECT now.id, now.ref_type || ' of ' || now.ref_id || ', booked the week before as ' || was.id
FROM {this}.ledger_entries AS now
JOIN {before}.ledger_entries AS was ON was.ref_id = now.ref_id AND was.ref_type = now.ref_type
WHERE now.ref_type <> 'carry_forward'
UNION ALL
SELECT now.id, 'a bet placed in this week, and in the one before'
FROM {this}.bets AS now
JOIN {this}.partition_meta AS meta ON now.placed_at >= meta.starts_at
JOIN {before}.bets AS was ON was.id = now.id
""",
}
"""What has to hold between a file and the one before it."""

# Sums in two halves of 32 bits: SQLite's sum() refuses to go beyond 64, and many users may own more than that.
ENTRY_SUMS = """
SELECT ref_type, count(*), sum(amount >> 32), sum(amount & 4294967295)
FROM {this}.ledger_entries
GROUP BY ref_type
"""

BET_SUMS = """
SELECT status, placed_at >= starts_at, count(*),
    sum(amount >> 32), sum(amount & 4294967295),
    coalesce(sum(payout_amount >> 32), 0), coalesce(sum(payout_amount & 4294967295), 0)
FROM {this}.bets
CROSS JOIN {this}.partition_meta
GROUP BY 1, 2
"""

USER_SUMS = """
SELECT count(*), coalesce(sum(balance >> 32), 0), coalesce(sum(balance & 4294967295), 0)
FROM {this}.users
"""

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
SELECT users.id, coalesce(first.ref_type, 'no entry') || ' at version ' || coalesce(first.version, 0)
FROM {this}.users AS users
LEFT JOIN (
    SELECT user_id, ref_type, min(version) AS version
    FROM {this}.ledger_entries
    GROUP BY user_id
) AS first ON first.user_id = users.id
WHERE first.ref_type IS NULL OR first.ref_type NOT IN ('opening', 'carry_forward')
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
    paid.id IS NULL OR paid.amount <> bets.payout_amount OR paid.user_id <> bets.user_id
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
    "rows refer to rows that are there": """
SELECT coalesce("table", '') || ':' || coalesce(rowid, ''), 'refers to a missing row of ' || parent
FROM (
    SELECT 'bets' AS "table", bets.id AS rowid, 'users' AS parent
    FROM {this}.bets AS bets
    LEFT JOIN {this}.users AS users ON users.id = bets.user_id
    WHERE users.id IS NULL
    UNION ALL
    SELECT 'ledger_entries', entries.id, 'users'
    FROM {this}.ledger_entries AS entries
    LEFT JOIN {this}.users AS users ON users.id = entries.user_id
    WHERE users.id IS NULL
)
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
}
"""What has to hold between a file and the one before it."""

COUNTS = """
SELECT
    (SELECT count(*) FROM {this}.users) AS users,
    (SELECT coalesce(sum(balance), 0) FROM {this}.users) AS closing,
    entries, carried, opened, deposited, withdrawn, transferred_in, transferred_out,
    bets, staked, paid, refunded
FROM (
    SELECT
        count(*) FILTER (WHERE ref_type <> 'carry_forward') AS entries,
        coalesce(sum(amount) FILTER (WHERE ref_type = 'carry_forward'), 0) AS carried,
        coalesce(sum(amount) FILTER (WHERE ref_type = 'opening'), 0) AS opened,
        coalesce(sum(amount) FILTER (WHERE ref_type = 'deposit'), 0) AS deposited,
        coalesce(-sum(amount) FILTER (WHERE ref_type = 'withdrawal'), 0) AS withdrawn,
        coalesce(sum(amount) FILTER (WHERE ref_type = 'transfer_in'), 0) AS transferred_in,
        coalesce(-sum(amount) FILTER (WHERE ref_type = 'transfer_out'), 0) AS transferred_out
    FROM {this}.ledger_entries
)
CROSS JOIN (
    SELECT
        count(*) FILTER (WHERE placed_at >= starts_at) AS bets,
        coalesce(sum(amount) FILTER (WHERE placed_at >= starts_at AND status <> 'insufficient_funds'), 0) AS staked,
        coalesce(sum(payout_amount), 0) AS paid,
        coalesce(sum(amount) FILTER (WHERE status = 'cancelled'), 0) AS refunded
    FROM {this}.bets
    CROSS JOIN {this}.partition_meta
)
"""

"""The rules of the audit between a file and the one before it, as queries like those inside one file.

`{this}` is the file under audit, `{before}` the one of the week before it.
"""

from betcore_async.partitions.carry import STAYS_CLOSED

ACROSS = {
    "a balance opens as it closed the week before": """
SELECT 'users', was.id, 'closed with ' || was.balance || ' at version ' || was.version
    || ', opened with ' || coalesce(opening.amount || ' at version ' || opening.version, 'nothing')
FROM {before}.users AS was
LEFT JOIN {this}.ledger_entries AS opening ON opening.ref_type = 'carry_forward' AND opening.ref_id = was.id
WHERE opening.id IS NULL OR opening.amount <> was.balance OR opening.version <> was.version
    OR opening.user_id <> was.id
""",
    "a user goes on in the next week": """
SELECT 'users', was.id, coalesce('wallet ' || was.wallet_address || ', made at ' || was.created_at || ', became wallet '
    || now.wallet_address || ', made at ' || now.created_at, 'is gone')
FROM {before}.users AS was
LEFT JOIN {this}.users AS now ON now.id = was.id
WHERE now.id IS NULL OR now.wallet_address <> was.wallet_address OR now.created_at <> was.created_at
""",
    "what is carried forward was there": """
SELECT 'ledger_entries', opening.id, 'carries forward ' || opening.ref_id || ', who was not there'
FROM {this}.ledger_entries AS opening
LEFT JOIN {before}.users AS was ON was.id = opening.ref_id
WHERE opening.ref_type = 'carry_forward' AND was.id IS NULL
""",
    "an open bet goes on in the next week": """
SELECT 'bets', was.id, 'was ' || was.status || ' at the end of its week, '
    || coalesce('is now ' || now.status, 'is gone')
FROM {before}.bets AS was
LEFT JOIN {this}.bets AS now ON now.id = was.id
WHERE was.status IN ('pending', 'confirmed')
  AND (
    now.id IS NULL OR now.user_id <> was.user_id OR now.cell_id <> was.cell_id OR now.amount <> was.amount
    OR now.reward_ppm <> was.reward_ppm OR now.placed_at <> was.placed_at
    OR (was.status = 'confirmed' AND (now.status = 'pending' OR now.confirmed_at IS NOT was.confirmed_at))
  )
""",
    "a carried bet was open before": """
SELECT 'bets', now.id, 'is carried over, ' || coalesce('and was ' || was.status, 'and was not there')
FROM {this}.bets AS now
JOIN {this}.partition_meta AS meta ON now.placed_at < meta.starts_at
LEFT JOIN {before}.bets AS was ON was.id = now.id
WHERE was.id IS NULL OR was.status NOT IN ('pending', 'confirmed')
""",
    "a closed cell stays closed in the next week": f"""
SELECT 'cell_settlements', was.cell_id, 'chunk ' || was.chunk || ' was settled, ' || CASE
    WHEN now.cell_id IS NULL THEN 'and is not there' ELSE 'and is another one now'
END
FROM {{before}}.cell_settlements AS was
LEFT JOIN {{this}}.cell_settlements AS now ON now.cell_id = was.cell_id AND now.chunk = was.chunk
WHERE was.cell_id IN ({STAYS_CLOSED})
AND (
    now.cell_id IS NULL OR now.won <> was.won OR now.upto <> was.upto OR now.bets <> was.bets
    OR now.payout <> was.payout OR now.unpaid <> was.unpaid OR now.is_last <> was.is_last
    OR now.settled_at <> was.settled_at
)
""",
    "a cell that begins closed was closed before": """
SELECT 'cell_settlements', now.cell_id, 'chunk ' || now.chunk || ' was settled before the week, and was not there'
FROM {this}.cell_settlements AS now
JOIN {this}.partition_meta AS meta ON now.settled_at < meta.starts_at
LEFT JOIN {before}.cell_settlements AS was ON was.cell_id = now.cell_id AND was.chunk = now.chunk
WHERE was.cell_id IS NULL
""",
    "what happened once is in one week": """
SELECT 'ledger_entries', now.id, now.ref_type || ' of ' || now.ref_id || ', booked the week before as ' || was.id
FROM {this}.ledger_entries AS now
JOIN {before}.ledger_entries AS was ON was.ref_id = now.ref_id AND was.ref_type = now.ref_type
WHERE now.ref_type <> 'carry_forward'
UNION ALL
SELECT 'bets', now.id, 'a bet placed in this week, and in the one before'
FROM {this}.bets AS now
JOIN {this}.partition_meta AS meta ON now.placed_at >= meta.starts_at
JOIN {before}.bets AS was ON was.id = now.id
""",
    "the week before names this one": """
SELECT 'partition_meta', was.week, 'was sealed in favour of ' || coalesce(was.successor, 'none')
FROM {before}.partition_meta AS was
JOIN {this}.partition_meta AS now ON was.successor IS NOT now.week OR now.predecessor IS NOT was.week
""",
}
"""What has to hold between a file and the one before it."""

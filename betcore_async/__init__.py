"""The asyncio data layer of a betting platform: SQLite by the week, prices and live messages in Redis."""

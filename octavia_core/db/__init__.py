"""The database: upstream Octavia's tables, ours beside them, and the storage port over both.

The only room that imports SQLAlchemy and Alembic. Its doors: `storage.SqlStorage`, `storage.prepare`,
`schema.upgrade`, `schema.check`.
"""

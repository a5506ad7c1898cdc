"""Everything that is kept in one SQLite file, and what looks after it."""

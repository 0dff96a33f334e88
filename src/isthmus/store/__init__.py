"""Where records and keys are kept: SQLite by default, in memory for tests."""

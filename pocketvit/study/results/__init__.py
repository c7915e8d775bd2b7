"""The table, the tests and the report of a study."""

"""The decision log: what became of each request, in an SQLite file."""

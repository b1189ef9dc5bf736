"""The page to watch the node on: its files, a feed of figures, and what the playground asks beyond the public API."""

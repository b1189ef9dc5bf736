"""What the decision log says of a time: traffic, saving, latency; in a terminal, as JSON, as a page."""

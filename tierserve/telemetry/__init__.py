"""What the node says of itself. Each module here reads the Outcome of a finished request."""

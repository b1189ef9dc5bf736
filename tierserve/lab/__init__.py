"""Two tiny Llama checkpoints that are the embedded default: real engines for a machine without a network or a GPU."""

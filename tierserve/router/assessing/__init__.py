"""The second opinion: a small language model rates the prompt where the embedding is unsure."""

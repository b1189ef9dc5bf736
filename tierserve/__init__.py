"""Serve a small and a large language model from one process; answer each prompt with the smallest that will do."""

__version__ = "0.1.0"

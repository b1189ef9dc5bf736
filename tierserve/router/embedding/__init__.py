"""Texts to vectors: all-MiniLM-L6-v2 on the fastest library that is here."""

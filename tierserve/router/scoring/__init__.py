"""Vectors and texts to scores, 0 to 10."""

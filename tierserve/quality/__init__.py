"""How good the routing is, and how it is made: outcomes, heads, evaluation."""

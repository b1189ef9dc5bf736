"""Small against large, sampled: what the large tier would have said where the small one did, and which is better."""

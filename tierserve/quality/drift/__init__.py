"""Whether the node still does what it did: two stretches of its decision log against each other."""

"""What requests cost: seconds of the tiers, as money."""

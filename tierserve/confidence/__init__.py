"""From what a model wrote, or how probable it found its own words, to a confidence of 0 to 1. Pure: nothing waits."""

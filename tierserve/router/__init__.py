"""From a prompt to a decision. Knows no engine and no HTTP."""

"""The small tier's answers, judged before the caller hears of them. Knows tiers and confidence; no router, no HTTP."""

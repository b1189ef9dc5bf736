"""A tiered node beside other ways to serve the same traffic. benchmarks/tiering.py is its command.

pairs: what is served, and what is asked; ways: how it is served; trials: one load against one of them; search: the
highest rate that holds; limit: the best possible; figures: from trials to rows, table and targets. search, limit and
figures are pure.
"""

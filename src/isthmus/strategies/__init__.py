"""How models are combined: a plan is a small tree of strategies, and one interpreter runs it."""

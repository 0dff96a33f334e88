"""Drift: whether a route's traffic and answers are still what they were in a time that was good."""

"""Confidence: how sure an answer is, from what its model said and how."""

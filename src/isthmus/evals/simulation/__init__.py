"""Strategies tried on outcomes that are known already: what each would cost, and how good it would be."""

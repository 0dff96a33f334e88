"""Experiments that are decided while they run: arms are stopped, and shares follow what is learned."""

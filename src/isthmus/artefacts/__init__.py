"""Signed weights: what an artefact is made of, who vouches for it, and what may be loaded."""

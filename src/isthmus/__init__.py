"""Isthmus joins applications to language models, open, closed and local, through one gateway."""

__version__ = "0.1.0"

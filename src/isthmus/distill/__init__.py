"""Distillation: what a strong model has answered teaches a small one. Steps that meet in files only."""

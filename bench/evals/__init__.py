"""Measures of evaluation: replay."""

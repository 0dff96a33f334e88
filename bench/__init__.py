"""Benchmarks: measured results are data in bench/results."""

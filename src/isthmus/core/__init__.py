"""The vocabulary: what every room speaks of, and nothing that does anything."""

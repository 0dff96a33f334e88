"""The strategies benchmark: see bench/README.md."""

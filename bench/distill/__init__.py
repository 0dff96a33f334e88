"""A student that learns to sort tickets, seen through the gateway's HTTP API."""

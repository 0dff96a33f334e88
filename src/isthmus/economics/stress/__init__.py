"""What shocks would do to a portfolio and its traffic. Pure."""

"""What things cost, and what would: pure questions over traffic, prices and facts."""

"""What can be called: providers, models, prices, weights. Pure data."""

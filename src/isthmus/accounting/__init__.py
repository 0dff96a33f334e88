"""What was consumed and what it costs, and when a model is left alone. Pure."""

"""Every metric name, once."""

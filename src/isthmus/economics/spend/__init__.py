"""What was spent, and what is to come. Pure."""

"""Effects: everything that reaches an endpoint outside this process."""

"""Self-hosting against an API: cases, options, where they meet, and how far off the answer may be. Pure."""

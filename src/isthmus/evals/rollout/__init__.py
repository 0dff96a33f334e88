"""New weights beside the old ones: what their traffic shows, and what follows from it."""

"""From records to a small model of one's own: golden answers, and whether they were learned."""

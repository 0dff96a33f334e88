"""The workload audit: which kinds of work an organisation asks of models, and where each belongs. Pure."""

"""Which GPUs a model needs for a traffic: memory, rooflines, queues, and the search over them. Pure."""

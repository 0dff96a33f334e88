"""The gateway benchmark: an upstream, a load, the peers, the run and the soak."""

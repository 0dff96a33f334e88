"""The effectful shell around the pure rooms: one application on a socket."""

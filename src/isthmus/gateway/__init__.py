"""The effectful shell around the pure rooms: one ASGI application."""

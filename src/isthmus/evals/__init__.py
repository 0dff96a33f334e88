"""Evaluation: the organisation's own work, run over every model, and read with an interval."""

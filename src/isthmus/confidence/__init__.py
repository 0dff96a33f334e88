"""How far an answer can be trusted: signals, probabilities, thresholds with a promise, votes. Pure.

What a live request needs (`signals`, `artefact`, `voting`) is plain Python; what learns and
tests (`fitting`, `reliability`, `thresholds`, `shift`) imports numpy and scipy.
"""

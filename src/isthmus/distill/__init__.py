"""From records to a small model of one's own: golden answers, training, proof; steps that meet in files."""

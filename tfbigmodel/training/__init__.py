"""Training: the static graph (`loop`), the host loop around it (`fit`), and what they use."""

"""What operators see of a running server: metrics, access log, samples of requests."""

"""Metrics and health of the API, the relay and the workers, for monitoring systems, in Prometheus' format."""

"""What the API, the relay and the workers tell a monitoring system: metrics in Prometheus' form, and health."""

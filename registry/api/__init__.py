"""The HTTP API: its application, what stands before every endpoint, and the endpoints."""

"""The HTTP API: the application, what runs before every endpoint, and the endpoints."""

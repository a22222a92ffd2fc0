"""The endpoints, a module a feature. They hold no logic."""

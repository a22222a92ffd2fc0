"""The endpoints, one module per feature. They hold no logic."""

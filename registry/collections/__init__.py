"""A line of versions over one base model."""

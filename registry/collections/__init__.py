"""Collections: lines of versions over one base model."""

"""The append-only, hash-chained account of every change of state."""

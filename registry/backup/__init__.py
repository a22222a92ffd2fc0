"""The whole record as one file, and back: verified before it is read, and nothing half restored."""

"""What `audit verify` recomputes from the record, of every feature."""

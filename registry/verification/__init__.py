"""The part of `audit verify` that recomputes the record, for every feature."""

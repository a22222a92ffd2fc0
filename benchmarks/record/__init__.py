"""`melo bench registry`: the record under load, with synthetic edits and blocks. Nothing is trained."""

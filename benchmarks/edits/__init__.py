"""`melo bench edits`: sequential editing on public data sets, measured beside what else one would use."""

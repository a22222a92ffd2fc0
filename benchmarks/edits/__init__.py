"""`melo bench edits`: sequential editing on public data sets, compared with the alternatives."""

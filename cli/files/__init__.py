"""Files of edits, as people have them: read, recognised, cleaned, and sent as NDJSON."""

"""Code that all packages use; nothing here knows a table."""

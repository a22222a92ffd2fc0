"""What all packages use; nothing here knows a table."""

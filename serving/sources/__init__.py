"""Where a server gets versions, and learns who may ask: the database, or the registry's API."""

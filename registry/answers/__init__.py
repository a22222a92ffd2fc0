"""The log of what was asked and answered: kept as a collection's policy says, and explained by the record."""

"""All tables of the database, as SQLAlchemy models: a module a feature."""

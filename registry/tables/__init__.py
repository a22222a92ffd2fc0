"""All tables of the database as SQLAlchemy models, one module per feature."""

"""The record's collection and API, for the program to be called with."""

from tests.registry.conftest import model_folder, served, served_app, workflow

__all__ = ["model_folder", "served", "served_app", "workflow"]

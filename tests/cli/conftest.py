"""The record's collection and API, for the program to be called with."""

from tests.registry.conftest import desk, model_folder, served, served_app

__all__ = ["desk", "model_folder", "served", "served_app"]

"""Serving: an OpenAI-compatible server over any version in the registry, with an engine in the same process."""

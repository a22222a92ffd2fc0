"""Engines: what generates the tokens of answers, behind one port."""

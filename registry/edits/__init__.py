"""Corrections: how they are submitted, checked and decided."""

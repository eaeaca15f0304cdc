"""Torch in, numbers out."""

"""A model in, a changed copy out."""

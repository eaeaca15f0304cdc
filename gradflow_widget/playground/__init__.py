"""Networks and data for those who bring none."""

"""Numbers in, pixels out; knobs."""

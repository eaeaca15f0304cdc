"""Runs training steps on a thread of its own."""

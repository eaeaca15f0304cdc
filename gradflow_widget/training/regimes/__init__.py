"""Regimes: switches that change how data or gradients reach the model."""

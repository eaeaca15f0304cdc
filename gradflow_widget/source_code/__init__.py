"""A model and its optimizer written down as plain PyTorch code."""

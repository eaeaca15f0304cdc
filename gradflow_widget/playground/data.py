"""Real data, without a download."""

from __future__ import annotations

import torch


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Return scikit-learn's 1,797 handwritten digits, shuffled once.

    Inputs of shape (1797, 64), float32, 8×8 pixels scaled to mean 0 and deviation 1 over
    the whole set; targets of shape (1797,), int64, the digits 0 to 9.
    """
    from sklearn.datasets import load_digits

    images, targets = load_digits(return_X_y=True)
    inputs = torch.tensor(images, dtype=torch.float32)
    inputs = (inputs - inputs.mean()) / inputs.std()
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    return inputs[order], torch.tensor(targets, dtype=torch.int64)[order]


DATA = {"digits": digits}

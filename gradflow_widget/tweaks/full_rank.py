"""Matrices of less than full rank, filled up so that an orthogonal one can start from them."""

from __future__ import annotations

import torch
from torch import Tensor


def completed(matrix: Tensor) -> Tensor:
    """Return ``matrix`` with full rank: what it leaves open is filled in, always the same way.

    A delta-orthogonal kernel with more outputs than inputs is 0 but in its middle, so that the
    matrix from all inputs under it has the rank of the middle alone. What is filled in is
    orthogonal to what is there, in rows and columns, and as large: with A = USVᵀ of rank r it
    is s₁ times the polar factor of (I − UUᵀ)·N·(I − VVᵀ) with normal N, so that multiples of
    delta-orthogonal kernels become those of orthogonal matrices and keep their middle.
    Matrices of full rank come back as they are, and so do those whose rows or columns are all
    alike: outputs that start alike are told apart by nothing but N.
    """
    if is_alike(matrix):
        return matrix
    exact = matrix.detach().cpu().double()
    precision = torch.finfo(matrix.dtype).eps * max(matrix.shape)
    # Eigenvalues of the smaller Gram matrix are ten times as fast and tell the most of them.
    squares = torch.linalg.eigvalsh(
        exact @ exact.T if len(exact) < exact.shape[1] else exact.T @ exact
    )
    if squares[0] > max(precision**2, 1e-13) * squares[-1]:
        return matrix
    rows, values, columns = torch.linalg.svd(exact, full_matrices=False)
    rank = int((values > precision * values[0]).sum())
    if rank == len(values):
        return matrix
    rows, columns = rows[:, :rank], columns[:rank]
    noise = torch.randn(
        exact.shape, generator=torch.Generator("cpu").manual_seed(0), device="cpu"
    ).double()
    noise = noise - rows @ (rows.T @ noise)
    noise = noise - (noise @ columns.T) @ columns
    left, _, right = torch.linalg.svd(noise, full_matrices=False)
    missing = len(values) - rank
    filled: Tensor = exact + values[0] * left[:, :missing] @ right[:missing]
    return filled.to(matrix)


def is_alike(matrix: Tensor) -> bool:
    """Whether the rows, or the columns, of a matrix of less than full rank are all the same."""
    if min(matrix.shape) == 1:
        return not matrix.any()
    return bool((matrix == matrix[:1]).all() or (matrix == matrix[:, :1]).all())

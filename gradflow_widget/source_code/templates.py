"""Plain classes for what the tweaks put into a model and torch has no class for.

Each source calls its class or function NAME. Names of members are those of the tweaks' own
modules, so that parameters are called the same.
"""

from __future__ import annotations

SKIP = '''class NAME(nn.Module):
    """x + scale * body(x)."""

    def __init__(self, body, scale):
        super().__init__()
        self.body = body
        self.scale = scale

    def forward(self, x):
        return x + self.scale * self.body(x)
'''

SKIP_OF_A_BLOCK = '''class NAME(nn.Module):
    """x + scale * body(x); of a tuple, the first element is skipped to."""

    def __init__(self, body, scale):
        super().__init__()
        self.body = body
        self.scale = scale

    def forward(self, *args, **kwargs):
        x = args[0] if args else next(iter(kwargs.values()))
        out = self.body(*args, **kwargs)
        if isinstance(out, (tuple, list)):
            return type(out)([x + self.scale * out[0], *out[1:]])
        return x + self.scale * out

    def __getattr__(self, name):
        # Whoever asks the block for an attribute finds it here.
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_"):
                raise
            return getattr(super().__getattr__("body"), name)
'''

NORMALIZED = '''class NAME(nn.Module):
    """A layer and the norm of its output; the layer's attributes are found here too."""

    def __init__(self, layer, norm):
        super().__init__()
        self.layer = layer
        self.norm = norm

    def forward(self, *args, **kwargs):
        return self.norm(self.layer(*args, **kwargs))

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "_parameters" in name or name.startswith("_"):
                raise
            return getattr(super().__getattr__("layer"), name)
'''

BATCH_NORM = '''class NAME(nn.BatchNorm1d):
    """Batch norm of the features on one dimension, over all the others."""

    def __init__(self, num_features, dim=-1):
        super().__init__(num_features)
        self.dim = dim

    def forward(self, input):
        last = input.movedim(self.dim, -1)
        rows = last.reshape(-1, self.num_features)
        if self.training and len(rows) < 2:  # one row has no spread
            normal = nn.functional.batch_norm(
                rows, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        else:
            normal = super().forward(rows)
        return normal.reshape(last.shape).movedim(-1, self.dim)
'''

GROUP_NORM = '''class NAME(nn.GroupNorm):
    """Group norm of the features on the last dimension, position by position."""

    def forward(self, input):
        return super().forward(input.reshape(-1, self.num_channels)).reshape(input.shape)
'''

RMS_NORM = '''class NAME(nn.Module):
    """RMS norm over all but the batch dimension, with a scale for each channel."""

    def __init__(self, channels, eps=1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, input):
        size = math.prod(input.shape[1:])
        mean_square = input.flatten(1).square().sum(1) / size
        scale = (mean_square + self.eps).rsqrt().to(input.dtype)
        ones = [1] * (input.dim() - 2)
        return input * scale.reshape(-1, 1, *ones) * self.weight.reshape(1, -1, *ones)
'''

ORTHOGONAL_KERNEL = '''class NAME(nn.Module):
    """Keeps the matrix under a convolution's kernel orthogonal."""

    def __init__(self, kernel):
        super().__init__()
        matrix = nn.Linear(math.prod(kernel.shape[1:]), kernel.shape[0], bias=False).to(kernel)
        parametrizations.orthogonal(matrix, orthogonal_map="cayley")
        self.of_matrix = matrix.parametrizations.weight[0]

    def forward(self, kernel):
        return self.of_matrix(kernel.flatten(1)).view_as(kernel)

    def right_inverse(self, kernel):
        matrix = self.completed(kernel.detach().flatten(1))
        return self.of_matrix.right_inverse(matrix).view_as(kernel)

    def completed(self, matrix):
        """Fill in what a kernel that is zero but in its middle leaves open."""
        exact = matrix.cpu().double()
        rows, values, columns = torch.linalg.svd(exact, full_matrices=False)
        least = torch.finfo(matrix.dtype).eps * max(matrix.shape) * values[0]
        rank = int((values > least).sum())
        if rank == len(values):
            return matrix
        rows, columns = rows[:, :rank], columns[:rank]
        noise = torch.randn(exact.shape, generator=torch.Generator().manual_seed(0)).double()
        noise = noise - rows @ (rows.T @ noise)
        noise = noise - (noise @ columns.T) @ columns
        left, _, right = torch.linalg.svd(noise, full_matrices=False)
        missing = len(values) - rank
        return (exact + values[0] * left[:, :missing] @ right[:missing]).to(matrix)
'''

ASSEMBLED = '''def NAME(cls, **members):
    """Return a module made of its members; what its constructor was called with is not known."""
    module = cls.__new__(cls)
    nn.Module.__init__(module)
    for name, member in members.items():
        if isinstance(member, torch.Tensor) and not isinstance(member, nn.Parameter):
            module.register_buffer(name, member)
        else:
            setattr(module, name, member)
    return module
'''

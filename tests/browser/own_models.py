"""Cells as people write them: a network of their own, and a language model out of a library.

Each defines ``model`` and, as its last line, ``flow``; ``given`` holds the model's first weights,
and ``ended`` the step that each run had reached when the next one took its place.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.browser.flow_page import FlowCell, FlowPage

_CNN = """\
import torch
from torch import nn
from torch.nn import functional as F
from gradflow_widget import GradientFlow
from gradflow_widget.playground.data import digits

class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()) for _ in range(4)
        )
        self.head = nn.Linear(8 * 4 * 4, 10)

    def forward(self, images):
        x = F.relu(self.stem(images))
        for block in self.blocks:
            x = block(x)
        return self.head(F.avg_pool2d(x, 2).flatten(1))

images, labels = digits()
torch.manual_seed(0)
model = Cnn()
flow = GradientFlow(
    model,
    torch.optim.SGD(model.parameters(), lr=0.1),
    nn.CrossEntropyLoss(),
    (images[:128].reshape(-1, 1, 8, 8), labels[:128]),
)
flow.batch_size = 16
"""

_GPT2 = """\
import torch
from torch.utils.data import TensorDataset
from transformers import GPT2Config, GPT2LMHeadModel
from gradflow_widget import GradientFlow

torch.manual_seed(0)
model = GPT2LMHeadModel(GPT2Config(
    vocab_size=64, n_positions=16, n_embd=48, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0
))
starts, strides = torch.randint(0, 64, (128, 1)), torch.randint(1, 6, (128, 1))
text = (starts + strides * torch.arange(16)) % 64

def next_token(model, batch):
    (tokens,) = batch
    return model(input_ids=tokens, labels=tokens).loss

flow = GradientFlow(
    model,
    torch.optim.AdamW(model.parameters(), lr=1e-3),
    objective=next_token,
    data=TensorDataset(text),
)
flow.batch_size = 16
"""

_WATCHED = """\
given = {name: value.clone() for name, value in model.state_dict().items()}
ended = []
flow.observe(lambda turn: ended.append(turn["old"]) if not turn["new"] else None, "step_number")
flow"""


@dataclass(frozen=True)
class OwnModel:
    """A model that is given ready made, and what is known of it.

    Attributes:
        name: short, for tests and pictures.
        source: the cell that makes it and its widget.
        first: the layers in front of the repeated blocks.
        block: the layers of a block, ``{}`` its number.
        last: the layers behind them.
        depth: how many blocks there are.
        blocks: where they are in the model.
        activation: what its activations are called in the menu.
        activations: the class of those that are modules.
        optimizer: the class of its optimizer.
        learning_rate: what that begins with.
        matrix: a weight inside a block as a matrix, ``m`` being the model.
        normed: layers that are norms once there is one before each hidden activation.
        norm: the name of the first of them.
    """

    name: str
    source: str
    first: tuple[str, ...]
    block: tuple[str, ...]
    last: tuple[str, ...]
    depth: int
    blocks: str
    activation: str
    activations: str
    optimizer: str
    learning_rate: float
    matrix: str
    normed: int
    norm: str

    def show(self, cell: FlowCell) -> FlowPage:
        """Show it, every heading open."""
        cell.notebook.page.evaluate("localStorage.clear()")
        page = cell.show(self.source + _WATCHED)
        page.unfold("Network")
        page.unfold("Optimizer and data")
        return page

    def layers(self, depth: int | None = None) -> list[str]:
        """Return the names of the layers with so many blocks."""
        numbers = range(self.depth if depth is None else depth)
        blocks = [name.format(number) for number in numbers for name in self.block]
        return [*self.first, *blocks, *self.last]


CNN = OwnModel(
    name="cnn",
    source=_CNN,
    first=("stem",),
    block=("blocks.{}.0",),
    last=("head",),
    depth=4,
    blocks="blocks",
    activation="relu",
    activations="ReLU",
    optimizer="SGD",
    learning_rate=0.1,
    matrix="m.blocks[1][0].weight.flatten(1)",
    normed=5,
    norm="stem.norm",
)
GPT2 = OwnModel(
    name="gpt2",
    source=_GPT2,
    first=("transformer.wte", "transformer.wpe"),
    block=tuple(
        f"transformer.h.{{}}.{layer}"
        for layer in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    ),
    last=("transformer.ln_f", "lm_head"),
    depth=3,
    blocks="transformer.h",
    activation="gelu",
    activations="NewGELUActivation",
    optimizer="AdamW",
    learning_rate=1e-3,
    matrix="m.transformer.h[1].attn.c_proj.weight",
    normed=7,
    norm="transformer.h.0.ln_1",
)

"""PresentRun: what there is to see of the run that stands on the bench."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from ..measurement.history import History
from ..measurement.nonfinite import NonFinite
from ..tweaks.record import Tweak, tweaks_of
from .bench import Bench
from .settings import Settings
from .steering import learning_rate_of, weight_decay_of


class PresentRun:
    """What whoever looks at a session may know of its present run; nothing here changes it."""

    _bench: Bench

    @property
    def settings(self) -> Settings:
        """What the knobs say now."""
        return self._bench.settings

    @property
    def model(self) -> nn.Module:
        """The model of the present run."""
        return self._bench.run.model

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer of the present run."""
        return self._bench.run.optimizer

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers that are watched."""
        return self._bench.run.probe.layers

    @property
    def has_grown(self) -> bool:
        """Whether the optimizer steps parameters that came after the run began."""
        return self._bench.run.has_grown

    @property
    def learning_rate(self) -> float | None:
        """What the knob sets, see :func:`learning_rate_of`; None where there is none."""
        return learning_rate_of(self.optimizer.param_groups)

    @property
    def coming_learning_rate(self) -> float | None:
        """The same as the next step has it; None where there is none."""
        return learning_rate_of(self.coming_options)

    @property
    def coming_weight_decay(self) -> float | None:
        """The greatest of a parameter group as the next step has it; None where there is none."""
        return weight_decay_of(self.coming_options)

    @property
    def coming_options(self) -> list[dict[str, Any]]:
        """Learning rate and weight decay of each parameter group, as the next step has them."""
        return self._bench.run.steering.coming()

    def model_at_the_beginning(self) -> nn.Module:
        """Return a copy of the model as the present run began with it."""
        return self._bench.run.at_the_beginning()

    @property
    def own_weight_decay(self) -> float | None:
        """The greatest weight decay of a parameter group but for any steering; or None."""
        return self._bench.run.steering.own_weight_decay

    @property
    def decay_meets_sparse(self) -> bool:
        """Whether weight decay would come to sparse gradients, for which the optimizer has none."""
        return self._bench.run.steering.decay_meets_sparse(self.model)

    @property
    def tweaks(self) -> tuple[Tweak, ...]:
        """What has been changed in the model of the present run."""
        return tweaks_of(self.model)

    @property
    def hooks_left_behind(self) -> str:
        """A sentence where the user's step hooks do not act on the present optimizer, else ""."""
        return self._bench.hooks_left_behind

    @property
    def history(self) -> History:
        """The readings of the present run; waits for those still on the device."""
        return self._bench.history

    @property
    def first_nonfinite(self) -> NonFinite | None:
        """The first tensor of the present run that was not finite."""
        return self._bench.run.fault.found

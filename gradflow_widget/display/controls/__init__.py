"""The knobs: ipywidgets controls, bound to the traits of the widget that owns them."""

from .controls import Controls
from .legend import legend
from .offers import Actions, Offer

__all__ = ["Actions", "Controls", "Offer", "legend"]

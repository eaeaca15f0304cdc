"""Torch's, Python's and NumPy's random generators, which are those of the whole process."""

from __future__ import annotations

import threading

# Held from when their state is read or exchanged until it is put back: of two runs that train at
# once each steps alone, and neither what a look draws nor its putting back reaches into a step.
exchanging = threading.RLock()

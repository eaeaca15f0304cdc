"""Prints every table, or the chosen: ``headless``, ``live``, ``networks``, ``tweaks``, ``soak``."""

from __future__ import annotations

import sys

from . import headless, live, networks, soak, tweaks

TABLES = {
    "headless": headless.main,
    "live": live.main,
    "networks": networks.main,
    "tweaks": tweaks.main,
    "soak": soak.main,
}


def main() -> None:
    """Run the chosen tables; all but the long soak by default."""
    chosen = sys.argv[1:] or ["headless", "live", "networks", "tweaks"]
    sys.argv[1:] = []
    for name in chosen:
        if name not in TABLES:
            raise SystemExit(f"no table {name!r}: choose among {', '.join(TABLES)}.")
        TABLES[name]()


if __name__ == "__main__":
    main()

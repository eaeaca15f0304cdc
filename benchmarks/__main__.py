"""Prints every table; ``headless``, ``live``, ``tweaks``, ``soak`` choose some of them."""

from __future__ import annotations

import sys

from . import headless, live, soak, tweaks

TABLES = {
    "headless": headless.main,
    "live": live.main,
    "tweaks": tweaks.main,
    "soak": soak.main,
}


def main() -> None:
    """Run the chosen tables; all but the long soak by default."""
    chosen = sys.argv[1:] or ["headless", "live", "tweaks"]
    sys.argv[1:] = []
    for name in chosen:
        if name not in TABLES:
            raise SystemExit(f"no table {name!r}: choose among {', '.join(TABLES)}.")
        TABLES[name]()


if __name__ == "__main__":
    main()

"""Finds a Chromium to test with, and as a program installs one where there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_PACKAGES = ("chromium", "fonts-dejavu-core")


def find_chromium() -> str | None:
    """Return the path of $CHROMIUM, the system's Chromium or Chrome, or Playwright's, or None."""
    chosen = os.environ.get("CHROMIUM")
    if chosen:
        return shutil.which(chosen)
    for name in _NAMES:
        path = shutil.which(name)
        if path and _runs(path):
            return path
    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def _runs(path: str) -> bool:
    # Where a distribution ships Chromium as a snap, the program on the path only says so.
    return subprocess.run([path, "--version"], capture_output=True, check=False).returncode == 0


def _install() -> None:
    as_root = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
    if shutil.which("apt-get") and (not as_root or _may_become_root()):
        # env, because sudo does not take the environment along.
        apt = [*as_root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
        subprocess.run([*apt, "update"], check=False)
        subprocess.run([*apt, "install", "--yes", *_PACKAGES], check=False)
        if find_chromium():
            return
    subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False)


def _may_become_root() -> bool:
    if not shutil.which("sudo"):
        return False
    command = ["sudo", "--non-interactive", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def main() -> None:
    """Print the path of a Chromium, installing one first where there is none."""
    if not os.environ.get("CHROMIUM") and not find_chromium():
        _install()
    path = find_chromium()
    if path is None:
        sys.exit(
            "The browser tests need Chromium or Chrome, and none could be installed: "
            "install one, or set CHROMIUM to the program's path."
        )
    print(f"Chromium: {path}")


if __name__ == "__main__":
    main()

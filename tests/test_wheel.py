"""The wheel, built in isolation as pip does for a user."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from email.message import Message
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parent.parent
STATIC = "gradflow_widget/display/static"
SERVER_CONFIG = "etc/jupyter/jupyter_server_config.d/gradflow_widget.json"
TOP = {"gradflow_widget", "gradflow_widget-0.1.0.data", "gradflow_widget-0.1.0.dist-info"}


def build_wheel(
    source: Path, folder: Path, *options: str, environment: dict[str, str] | None = None
) -> ZipFile:
    command = [*(sys.executable, "-m", "pip", "wheel", str(source), "--no-deps"), *options]
    done = subprocess.run(
        [*command, "-w", str(folder)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return ZipFile(path)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    return build_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def metadata(wheel: ZipFile) -> Message:
    return Parser().parsestr(wheel.read("gradflow_widget-0.1.0.dist-info/METADATA").decode())


def test_it_carries_every_module_and_the_marker_of_its_types(wheel: ZipFile) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("gradflow_widget/**/*.py")}

    sound = "gradflow_widget/playground/data/spoken_digits.npz"
    assert modules | {"gradflow_widget/py.typed", sound} <= set(wheel.namelist())


@pytest.mark.parametrize("name", ["panel.js", "table.js", "folds.js", "panel.css"])
def test_it_carries_the_front_end_as_it_was_built(wheel: ZipFile, name: str) -> None:
    assert wheel.read(f"{STATIC}/{name}") == (ROOT / STATIC / name).read_bytes() != b""


def test_it_puts_the_server_extensions_switch_where_jupyter_looks(wheel: ZipFile) -> None:
    in_wheel = wheel.read(f"gradflow_widget-0.1.0.data/data/{SERVER_CONFIG}")

    assert in_wheel == (ROOT / SERVER_CONFIG).read_bytes()


def test_it_carries_nothing_else(wheel: ZipFile) -> None:
    names = [name for name in wheel.namelist() if ".dist-info/" not in name]

    assert {name.split("/")[0] for name in wheel.namelist()} == TOP
    assert not [name for name in names if name.endswith((".ts", ".ipynb", ".pyc"))]
    assert not [name for name in names if "test" in name or "node_modules" in name]
    assert [name for name in names if ".data/data/" in name] == [
        f"gradflow_widget-0.1.0.data/data/{SERVER_CONFIG}"
    ]


def test_it_says_what_it_needs(metadata: Message) -> None:
    needed = {line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}

    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert needed == {
        "anywidget>=0.11",
        "bqplot>=0.13",
        "ipywidgets>=8.1",
        "numpy",
        "scikit-learn",
        "torch>=2.6",
        "traitlets",
    }


def test_the_sdist_and_its_wheel_take_the_front_end_as_it_was_built(
    tmp_path: Path, wheel: ZipFile
) -> None:
    copy = tmp_path / "copy"
    kept_out = shutil.ignore_patterns("node_modules", ".git", ".venv", ".*_cache", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=kept_out)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "npm").write_text("#!/bin/sh\nexit 1\n")
    (programs / "npm").chmod(0o755)
    without_npm = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}

    build = [sys.executable, "-c", "import hatchling.build; hatchling.build.build_sdist('.')"]
    subprocess.run(build, cwd=copy, env=without_npm, check=True)
    (sdist,) = copy.glob("*.tar.gz")

    from_sdist = build_wheel(sdist, tmp_path, "--no-build-isolation", environment=without_npm)
    assert set(from_sdist.namelist()) == set(wheel.namelist())

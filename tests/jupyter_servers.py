"""Real Jupyter servers, each a process of its own, apart from the settings of whoever runs this."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class JupyterServer:
    """A running server, and what is needed to speak to it."""

    url: str
    token: str
    root: Path
    runtime: Path
    process: subprocess.Popen[bytes]

    def request(self, path: str, *, method: str = "GET", body: object = None) -> Any:
        """Call the server's REST API and return its answer from JSON."""
        request = urllib.request.Request(
            f"{self.url}/api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"token {self.token}"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = response.read()
        return json.loads(answer) if answer else None

    def log(self) -> str:
        """Return what the server has written so far."""
        return (self.runtime / "server.log").read_text(errors="replace")


@contextmanager
def running_server(
    folder: Path, application: str = "server", arguments: Sequence[str] = ()
) -> Iterator[JupyterServer]:
    """Run ``jupyter APPLICATION`` on a free port with its files under ``folder``.

    Raises:
        RuntimeError: The server has ended, or has not answered within a minute; with its log.
    """
    places = {name: folder / name for name in ("config", "data", "runtime", "notebooks", "ipython")}
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("JUPYTER")},
        "JUPYTER_CONFIG_DIR": str(places["config"]),
        "JUPYTER_DATA_DIR": str(places["data"]),
        "JUPYTER_RUNTIME_DIR": str(places["runtime"]),
        "IPYTHONDIR": str(places["ipython"]),
        # A kernel that the user registered under the same name must not be the one that starts.
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    token = secrets.token_hex(16)
    command = [
        *(sys.executable, "-m", "jupyter", application, "--no-browser", "--allow-root"),
        # The server itself takes a free port, so that no one else can take it in between.
        *("--ip=127.0.0.1", "--port=0", "--ServerApp.port_retries=0"),
        f"--ServerApp.root_dir={places['notebooks']}",
        f"--IdentityProvider.token={token}",
        *arguments,
    ]
    with (places["runtime"] / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield _when_ready(process, token, places["notebooks"], places["runtime"])
    finally:
        _stop(process)


def _when_ready(
    process: subprocess.Popen[bytes], token: str, root: Path, runtime: Path
) -> JupyterServer:
    written = runtime / f"jpserver-{process.pid}.json"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            url = json.loads(written.read_text())["url"].rstrip("/")
            server = JupyterServer(url, token, root, runtime, process)
            server.request("status")
        except (OSError, ValueError):
            time.sleep(0.05)
        else:
            return server
    state = "did not answer" if process.poll() is None else f"ended with {process.returncode}"
    log = (runtime / "server.log").read_text(errors="replace")
    raise RuntimeError(f"The Jupyter server {state}:\n{log}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    # Asked to terminate, the server ends its kernels first.
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

"""The server extension: by itself, and in real servers with a real kernel."""

from __future__ import annotations

import subprocess
import sys
import uuid
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import websocket
from jupyter_server.gateway.connections import GatewayWebSocketConnection
from jupyter_server.services.kernels.connection.base import BaseKernelWebsocketConnection
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from traitlets.config import Config

from gradflow_widget.server import (
    _jupyter_server_extension_points,
    _load_jupyter_server_extension,
    without_delay,
)
from tests.jupyter_servers import JupyterServer, running_server
from tests.waiting import wait_for

SETTING = "kernel_websocket_connection_class"


class RecordingHandler:
    """Stands where the websocket's handler does and records what is asked of it."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def set_nodelay(self, value: bool) -> None:
        self.calls.append(("set_nodelay", value))


class SomeoneElsesConnection:
    """A connection class of another extension."""

    def __init__(self, handler: RecordingHandler) -> None:
        self.websocket_handler = handler

    def connect(self) -> str:
        self.websocket_handler.calls.append("connect")
        return "what connect returned"


def server_with(settings: dict[str, Any]) -> Any:
    return SimpleNamespace(web_app=SimpleNamespace(settings=settings))


def test_nodelay_is_set_and_then_the_class_underneath_connects() -> None:
    handler = RecordingHandler()
    connection = without_delay(SomeoneElsesConnection)(handler)

    assert connection.connect() == "what connect returned"
    assert handler.calls == [("set_nodelay", True), "connect"]


@pytest.mark.parametrize(
    "already_set",
    [ZMQChannelsWebsocketConnection, GatewayWebSocketConnection, SomeoneElsesConnection],
)
def test_whatever_class_was_set_is_kept_underneath(already_set: type) -> None:
    settings: dict[str, Any] = {SETTING: already_set, "other": "left alone"}

    _load_jupyter_server_extension(server_with(settings))

    assert issubclass(settings[SETTING], already_set)
    assert settings[SETTING].__mro__[1:] != already_set.__mro__
    assert settings.keys() == {SETTING, "other"}
    assert settings["other"] == "left alone"


def test_loading_twice_changes_nothing_more() -> None:
    settings = {SETTING: ZMQChannelsWebsocketConnection}
    _load_jupyter_server_extension(server_with(settings))
    once = settings[SETTING]

    _load_jupyter_server_extension(server_with(settings))

    assert settings[SETTING] is once


def test_a_server_without_the_setting_is_left_as_it_is() -> None:
    settings: dict[str, Any] = {}

    _load_jupyter_server_extension(server_with(settings))

    assert settings == {}


def test_the_users_configuration_of_the_class_underneath_still_applies() -> None:
    subclass = without_delay(BaseKernelWebsocketConnection)
    config = Config({"BaseKernelWebsocketConnection": {"kernel_ws_protocol": "chosen"}})

    assert subclass(config=config).kernel_ws_protocol == "chosen"


def test_the_extension_names_its_own_module() -> None:
    assert _jupyter_server_extension_points() == [{"module": "gradflow_widget.server"}]


def test_loading_the_extension_does_not_import_torch() -> None:
    code = "import sys, gradflow_widget.server; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The class underneath connects when the extension has done its part: it tells what it finds.
TELLS_NODELAY = """\
import socket
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection

class TellsNodelay(ZMQChannelsWebsocketConnection):
    def connect(self):
        connected = self.websocket_handler.ws_connection.stream.socket
        nodelay = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        self.log.warning(f"TCP_NODELAY on the kernel's websocket: {bool(nodelay)}")
        return super().connect()

c.ServerApp.kernel_websocket_connection_class = TellsNodelay
"""


def open_websocket(server: JupyterServer) -> websocket.WebSocket:
    """Return the websocket of a new kernel, opened as a page opens it."""
    kernel = server.request("kernels", method="POST", body={"name": "python3"})
    return websocket.create_connection(
        f"{server.url.replace('http', 'ws', 1)}/api/kernels/{kernel['id']}/channels"
        f"?session_id={uuid.uuid4().hex}",
        header=[f"Authorization: token {server.token}"],
        timeout=60,
    )


def test_installing_the_package_enables_the_extension(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        assert "gradflow_widget.server | extension was successfully loaded" in server.log()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_extension_takes_the_delay_off_a_kernels_websocket_and_the_server_does_not(
    tmp_path: Path, enabled: bool
) -> None:
    config = tmp_path / "config.py"
    config.write_text(TELLS_NODELAY)
    extension = f"--ServerApp.jpserver_extensions=gradflow_widget.server={str(enabled).lower()}"
    with (
        running_server(tmp_path / "server", arguments=[extension, f"--config={config}"]) as server,
        closing(open_websocket(server)),
    ):
        wait_for(lambda: "TCP_NODELAY on the kernel's websocket: " in server.log())

        assert f"TCP_NODELAY on the kernel's websocket: {enabled}" in server.log()

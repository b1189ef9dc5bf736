"""A whole node with keys and a certificate."""

import json
import signal
import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from node import Node

from tests.server.test_access import bearer, write_keys
from tests.server.test_tls import write_pair


@pytest.mark.engine
def test_a_node_with_keys_and_a_certificate(lab: dict[str, Any], node: Node, tmp_path: Path) -> None:
    """Its tiers are the running node's. A caller who never comes to the end of the handshake is there all the time."""
    tiers = {
        role: {"name": role[0], "remote": {"url": f"{node.url}/v1", "model": f"lab-{role}"}}
        for role in ("small", "large")
    }
    pair = write_pair(tmp_path, "node")
    write_keys(tmp_path / "keys.yaml", [{"name": "app", "requests_per_minute": 100}])
    server = lab["server"] | {"keys": {"file": "keys.yaml"}, "tls": pair.model_dump()}
    context = ssl.create_default_context(cafile=pair.certificate)
    with Node(lab | {"tiers": tiers, "server": server}, tmp_path) as secured:
        secured.wait_until_ready()
        assert secured.url.startswith("https://")
        body = json.dumps({"messages": [{"role": "user", "content": "What is Python?"}], "max_tokens": 4}).encode()
        host, port = secured.url.removeprefix("https://").split(":")
        with socket.create_connection((host, int(port))):
            asked = urllib.request.Request(f"{secured.url}/v1/chat/completions", body, bearer("app"))
            asked.add_header("content-type", "application/json")
            with urllib.request.urlopen(asked, context=context, timeout=60) as response:
                assert response.headers["x-ratelimit-remaining-requests"] == "99"
            asked.remove_header("Authorization")
            with pytest.raises(urllib.error.HTTPError, match="401") as refused:
                urllib.request.urlopen(asked, context=context, timeout=60)
            refused.value.close()
            secured.signal(signal.SIGTERM)
            assert secured.wait() == 0
        assert '"key": "app"' in secured.err
        assert bearer("app")["authorization"].removeprefix("Bearer ") not in secured.err

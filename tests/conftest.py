"""What tests share: the project's paths, the router's real encoder, and one running node with two real engines."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import pytest
from hypothesis import settings
from node import Node, lab_config

if TYPE_CHECKING:
    from tierserve.quality.fit import Fitted
    from tierserve.router.embedding.encoder import SentenceEncoder

ROOT = Path(__file__).resolve().parents[1]

settings.register_profile("tierserve", deadline=None)  # how long an example takes is the machine's affair
settings.register_profile("long", deadline=None, max_examples=5000)  # pytest --hypothesis-profile=long
settings.load_profile("tierserve")


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of the session's own, for the tests and the nodes they start: the router's encoder is converted once."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def encoder(cache_home: Path) -> "SentenceEncoder":
    """The default one. For one thread at a time."""
    from tierserve.config import EncoderConfig
    from tierserve.router.embedding.encoder import load_encoder

    return load_encoder(EncoderConfig())


@pytest.fixture(scope="session")
def traffic(encoder: "SentenceEncoder") -> "Fitted":
    """benchmarks/traffic.jsonl with its vectors."""
    from tierserve.quality.calibrate import encode
    from tierserve.quality.fit import Fitted
    from tierserve.quality.outcomes import read_outcomes

    outcomes = read_outcomes([ROOT / "benchmarks" / "traffic.jsonl"])
    return Fitted(encode(encoder, outcomes.prompts), outcomes)


@pytest.fixture(scope="session")
def lab() -> dict[str, Any]:
    """configs/lab.yaml as data, with absolute paths and a port that the system chooses."""
    return lab_config() | {"server": {"port": 0, "max_body_mb": 1, "drain_s": 60}}


@pytest.fixture(scope="session")
def node(lab: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """`tierserve --config`, as a person starts it, on the embedded default."""
    with Node(lab, tmp_path_factory.mktemp("node")) as running:
        yield running.wait_until_ready()


@pytest.fixture(scope="session")
def client(node: Node) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{node.url}/v1", api_key="unused", max_retries=0, timeout=120) as client:
        yield client

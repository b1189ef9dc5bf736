import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from tests.conftest import ROOT
from tierserve.config import NodeConfig, load, schema, secret
from tierserve.core import Role
from tierserve.errors import ConfigError

TIERS: dict[str, Any] = {
    "small": {"name": "s", "engine": {"model": "./s"}},
    "large": {"name": "l", "remote": {"url": "http://127.0.0.1:1/v1", "model": "m"}},
}


def config_of(tmp_path: Path, text: str) -> NodeConfig:
    path = tmp_path / "node.yaml"
    path.write_text(text)
    return load(path)


def problem_of(tmp_path: Path, data: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        config_of(tmp_path, data if isinstance(data, str) else yaml.safe_dump(data))
    return str(raised.value).removeprefix(f"{tmp_path}/node.yaml: ")


def test_defaults_are_the_article_s(tmp_path: Path) -> None:
    config = config_of(tmp_path, yaml.safe_dump({"tiers": TIERS}))
    assert config.router.threshold == 4.0
    assert config.server.host == "127.0.0.1"
    assert config.tiers[Role.SMALL].name == "s"


@pytest.mark.parametrize("off", ["off", "'off'", "false", "null"])
def test_what_can_be_off_can_be_written_so(off: str, tmp_path: Path) -> None:
    text = yaml.safe_dump({"tiers": TIERS}) + f"router: {{load: {off}, conversations: {off}, assess: {off}}}"
    router = config_of(tmp_path, text).router
    assert router.load is router.conversations is router.assess is None
    jsonschema.validate(yaml.safe_load(text), json.loads(schema()))


def test_a_share_to_hold_and_a_threshold_to_start_from_go_together(tmp_path: Path) -> None:
    router = {"threshold": 3.5, "target_large_share": 0.15, "threshold_min": 2, "load": {"large_queue": 8}}
    tiers = json.loads(json.dumps(TIERS))
    tiers["large"]["remote"]["max_num_seqs"] = 64
    text = yaml.safe_dump({"tiers": tiers, "router": router})
    assert config_of(tmp_path, text).router.target_large_share == 0.15
    jsonschema.validate(yaml.safe_load(text), json.loads(schema()))


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = config_of(tmp_path, yaml.safe_dump({"tiers": TIERS}))
    assert config.tiers.small.engine == {"model": str(tmp_path / "s")}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"tiers": TIERS, "ruoter": {}}, "ruoter: unknown option — did you mean `router`?"),
        (
            {"tiers": TIERS, "router": {"treshold": 1}},
            "router.treshold: unknown option — did you mean `threshold`?",
        ),
        ({"tiers": TIERS, "router": {"xyz": 1}}, "known here: encoder, scorer, head, threshold"),
        ({"tiers": TIERS, "router": {"threshold": 11}}, "router.threshold: Input should be less than or equal to 10"),
        ({"tiers": TIERS, "router": {"target_large_share": 1.5}}, "router.target_large_share: Input should be less"),
        ({"tiers": TIERS, "router": {"target_large_share": 0}}, "router.target_large_share: Input should be greater"),
        (
            {"tiers": TIERS, "router": {"target_large_share": 0.1, "threshold_min": 5}},
            "router: `threshold`, where it starts, must lie within `threshold_min` and `threshold_max`",
        ),
        ({"tiers": TIERS, "router": {"threshold_max": 5}}, "router: `threshold_min` and `threshold_max` need"),
        ({"tiers": TIERS, "router": {"load": {}}}, "router.load: set `large_queue`, `small_queue` or both"),
        ({"tiers": TIERS, "router": {"load": {"larg_queue": 3}}}, "did you mean `large_queue`?"),
        ({"tiers": TIERS, "router": {"load": True}}, "router.load: is no section"),
        ({"tiers": TIERS, "router": {"conversations": 0}}, "router.conversations: is no section"),
        ({"tiers": TIERS, "router": {"load": {"large_queue": 3}}}, "needs tiers.large.remote.max_num_seqs"),
        ({"tiers": TIERS, "router": {"assess": {"modle": "m"}}}, "router.assess.modle: unknown option — did you mean"),
        ({"tiers": TIERS, "router": {"assess": {"band": [5, 3]}}}, "router.assess: `band` is the lower bound and then"),
        ({"tiers": TIERS, "router": {"assess": {"band": [3, 11]}}}, "router.assess.band.1: Input should be less than"),
        ({"tiers": TIERS, "router": {"assess": {"band": [3]}}}, "router.assess.band: List should have at least 2"),
        ({"tiers": TIERS, "router": {"assess": {"weight": 0}}}, "router.assess.weight: Input should be greater than 0"),
        ({"tiers": TIERS, "router": {"assess": {"deadline_ms": 0}}}, "router.assess.deadline_ms: Input should be"),
        ({"tiers": TIERS, "router": {"assess": {"queue": 0}}}, "router.assess.queue: Input should be"),
        ({"tiers": TIERS, "router": {"assess": {"threads": 0}}}, "router.assess.threads: Input should be"),
        ({"tiers": TIERS, "router": {"assess": {"dtype": "int4"}}}, "router.assess.dtype: Input should be 'auto'"),
        ({"tiers": TIERS, "router": {"assess": "on"}}, "router.assess: is no section"),
        ({"tiers": TIERS, "router": {"conversations": {"ttl": 3}}}, "router.conversations.ttl: unknown option"),
        ({"tiers": TIERS, "server": {"port": "high"}}, "server.port: Input should be a valid integer"),
        ({"tiers": TIERS, "server": {"port": 70000}}, "(it is 70000)"),
        ({"tiers": {"small": TIERS["small"]}}, "tiers.large: missing — add it"),
        ({"server": {}}, "tiers: missing — add it"),
        ({"tiers": TIERS | {"small": {"name": "s"}}}, "a tier needs either `engine:`"),
        ({"tiers": TIERS | {"small": {"name": "s", "engine": {}}}}, "engine.model is missing"),
        ({"tiers": TIERS | {"small": {"name": "auto", "engine": {"model": "m"}}}}, "`auto` is the routed model"),
        ({"tiers": TIERS | {"small": {"name": "l", "engine": {"model": "m"}}}}, "two different names"),
        ({"tiers": TIERS | {"small": {"name": "large", "engine": {"model": "m"}}}}, "two different names"),
        ({"tiers": TIERS | {"small": {"name": "a b", "engine": {"model": "m"}}}}, "tiers.small.name"),
        ({"tiers": TIERS, "log": {"level": "loud"}}, "log.level"),
        ({"tiers": TIERS, "server": {"port": True}}, "server.port: Input should be a valid integer"),
        ({"tiers": TIERS, "server": {"port": "8000"}}, "server.port: Input should be a valid integer"),
        ({"tiers": TIERS, "server": {"drain_s": float("inf")}}, "server.drain_s"),
        ({"tiers": TIERS, "server": None}, "server: is no section — indent its options under it, or remove it"),
        ("x: 2024-02-30", "is not YAML"),
        ("x: !!int abc", "is not YAML"),
        ("x: !!timestamp abc", "is not YAML"),
        ({"tiers": TIERS, "server": {"port": "a"}, "log": {"level": "loud"}}, "1 more problem in this file"),
        ("tiers: {small: 1, small: 2}", "key 'small' stands twice (line 1)"),
        ("1: 2", "key 1 on line 1 is not a text"),
        ("tiers: [", "is not YAML"),
        ("", "holds no configuration — start from a file in configs/"),
        ("- a", "holds no configuration"),
        ("a: !!python/object/apply:os.system [true]", "is not YAML"),
    ],
)
def test_a_mistake_is_named_with_its_path_and_the_remedy(data: Any, said: str, tmp_path: Path) -> None:
    assert said in problem_of(tmp_path, data)


def test_paths_inside_an_option_are_relative_to_the_file_too(tmp_path: Path) -> None:
    tiers = json.loads(json.dumps(TIERS))
    tiers["small"]["engine"]["speculative_config"] = {"model": "./draft"}
    tiers["small"]["chat_template"] = "templates/chat.jinja"
    small = config_of(tmp_path, yaml.safe_dump({"tiers": tiers})).tiers.small
    assert small.engine is not None
    assert small.engine["speculative_config"] == {"model": str(tmp_path / "draft")}
    assert small.chat_template == str(tmp_path / "templates" / "chat.jinja")


def test_the_assessor_s_folder_is_relative_to_the_file_and_a_repository_is_not(tmp_path: Path) -> None:
    for model, expected in (("./m", str(tmp_path / "m")), ("owner/m", "owner/m")):
        text = yaml.safe_dump({"tiers": TIERS, "router": {"assess": {"model": model, "band": [3, 5.5]}}})
        assess = config_of(tmp_path, text).router.assess
        assert assess is not None
        assert (assess.model, assess.band) == (expected, [3, 5.5])
        jsonschema.validate(yaml.safe_load(text), json.loads(schema()))


def test_anchors_and_merge_keys_share_options(tmp_path: Path) -> None:
    text = """
tiers:
  small: {name: s, engine: &engine {model: ./s, dtype: bfloat16}}
  large: {name: l, engine: {<<: *engine, model: ./l}}
"""
    large = config_of(tmp_path, text).tiers.large
    assert large.engine == {"model": str(tmp_path / "l"), "dtype": "bfloat16"}


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "node.yaml", tmp_path, tmp_path / "absent.yaml"):
        with pytest.raises(ConfigError, match="can't be read"):
            load(path)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_content_is_anything_but_a_config_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        load(path)


def test_a_secret_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "sesame")
    assert secret("here", "A_KEY") == "sesame"
    assert secret("here", None) is None
    monkeypatch.delenv("A_KEY")
    with pytest.raises(ConfigError, match="here: the environment variable A_KEY is not set — export A_KEY="):
        secret("here", "A_KEY")


def test_every_option_is_described() -> None:
    def sections(model: type[BaseModel]) -> list[dict[str, Any]]:
        found = model.model_json_schema()
        return [found, *found.get("$defs", {}).values()]

    for section in sections(NodeConfig):
        for name, option in section["properties"].items():
            assert "description" in option or "$ref" in option or "anyOf" in option, f"{section['title']}.{name}"


def test_the_schema_accepts_what_we_ship() -> None:
    for path in (ROOT / "configs").glob("*.yaml"):
        jsonschema.validate(yaml.safe_load(path.read_text()), json.loads(schema()))

"""Conversions are made once, checked, repaired and fallen back from. For real: each is a process that loads torch."""

import json
import logging
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tierserve.config import EncoderConfig
from tierserve.router.embedding import backends, converted, openvino_network, weights
from tierserve.router.embedding.conversion import SAMPLE, least_cosine
from tierserve.router.embedding.converted import CHECK, Source, open_converted
from tierserve.router.embedding.encoder import SentenceEncoder, load_encoder
from tierserve.router.embedding.network import Backend, Vectors
from tierserve.router.embedding.onnx_network import Onnx
from tierserve.router.embedding.openvino_network import OpenVino
from tierserve.router.embedding.tokens import SentenceTokenizer

FOLDER = weights.locate(EncoderConfig().model)
SOURCE = Source(FOLDER, weights.digest(FOLDER, None))
TEXTS = (*SAMPLE, "no", "Danke!", "x = [i ** 2 for i in range(10)]", "Prove it.", "word " * 500, "\ud800")
BACKENDS: list[Backend] = [OpenVino("int8"), OpenVino("bf16"), Onnx()]

START = """
import sys
from pathlib import Path
from tierserve.router.embedding.converted import Source, open_converted
from tierserve.router.embedding.onnx_network import Onnx
from tierserve.router.embedding.openvino_network import OpenVino
sys.modules["torch"] = None
open_converted({backend!r}, Source(Path({folder!r}), {sha256!r}), Path({cache!r}), threads=1, max_tokens=16)
"""


@pytest.fixture(scope="module")
def cache(cache_home: Path) -> Path:
    return cache_home / "tierserve" / "encoder"


@pytest.fixture(scope="module")
def original() -> SentenceEncoder:
    return load_encoder(EncoderConfig(backend="sentence-transformers"))


@pytest.fixture(scope="module", params=BACKENDS, ids=lambda backend: f"{backend.name}-{backend.form}")
def backend(request: pytest.FixtureRequest) -> Backend:
    return request.param


@pytest.fixture(scope="module")
def fast(backend: Backend, cache: Path) -> SentenceEncoder:
    network = open_converted(backend, SOURCE, cache, threads=1, max_tokens=256)
    return SentenceEncoder(SentenceTokenizer(FOLDER, EncoderConfig().max_tokens), network, backend.name)


def parts(vectors: Vectors) -> Vectors:
    """Of each vector the three that it is made of: shape (texts, 3, 384)."""
    return vectors.reshape(len(vectors), 3, 384)


def files(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_every_backend_is_near_the_original(fast: SentenceEncoder, original: SentenceEncoder) -> None:
    assert least_cosine(fast, original, TEXTS) >= converted.LEAST_COSINE
    vectors = fast.encode(TEXTS)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(parts(vectors), axis=2) == pytest.approx(1, abs=1e-5)


def test_a_batch_gives_what_single_texts_give(fast: SentenceEncoder) -> None:
    together = fast.encode(TEXTS)
    alone = np.concatenate([fast.encode([text]) for text in TEXTS])
    assert (parts(together) * parts(alone)).sum(
        axis=2
    ).min() > 0.995  # int8 rounds otherwise in another shape, most in "thanks!"


def test_a_result_is_not_overwritten_by_the_next(fast: SentenceEncoder) -> None:
    vectors = fast.encode(["one"])
    kept = vectors.copy()
    fast.encode(["another"])
    assert (vectors == kept).all()


def test_the_original_s_own_part_is_what_sentence_transformers_gives(original: SentenceEncoder) -> None:
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(str(FOLDER), device="cpu").encode(list(SAMPLE))
    short = [row for row, text in enumerate(SAMPLE) if len(text) < 500]  # it cuts the end off, we the middle
    assert (original.encode(SAMPLE)[:, : original.own] * plain).sum(axis=1)[short].min() > 0.99999


def test_the_other_parts_are_the_means_half_way_and_before_the_first_layer(original: SentenceEncoder) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(FOLDER), AutoModel.from_pretrained(FOLDER).eval()
    for text in ("What is Python?", "x = [i ** 2 for i in range(10)]"):
        with torch.inference_mode():
            found = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        states = found.hidden_states
        assert len(states) == 7  # what goes into the first of six layers, and what comes out of each
        expected = torch.nn.functional.normalize(torch.stack([states[3][0].mean(0), states[0][0].mean(0)]))
        assert parts(original.encode([text]))[0, 1:] == pytest.approx(expected.numpy(), abs=1e-5)


def test_once_converted_a_start_needs_no_torch(fast: SentenceEncoder, backend: Backend, cache: Path) -> None:
    before = files(cache)
    code = START.format(backend=backend, folder=str(FOLDER), sha256=SOURCE.sha256, cache=str(cache))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert files(cache) == before


@pytest.mark.parametrize("harm", ["cut short", "changed", "gone", "no check"])
def test_a_damaged_entry_is_noticed(
    harm: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    entry, copy = (folder / converted._name(Onnx(), SOURCE) for folder in (cache, tmp_path))
    open_converted(Onnx(), SOURCE, cache, threads=1, max_tokens=16)
    shutil.copytree(entry, copy)
    network = copy / "network.onnx"
    match harm:
        case "cut short":
            network.write_bytes(network.read_bytes()[:1000])
        case "changed":
            content = bytearray(network.read_bytes())
            content[-1] ^= 1
            network.write_bytes(content)
        case "gone":
            network.unlink()
        case "no check":
            (copy / CHECK).write_text("{")
    # The same conversion as the one that is there, without the quarter of a minute.
    monkeypatch.setattr(converted, "_convert", lambda _b, _s, made: shutil.copytree(entry, made, dirs_exist_ok=True))
    open_converted(Onnx(), SOURCE, tmp_path, threads=1, max_tokens=16)
    assert "is damaged: converting again" in caplog.text
    assert converted._checked(copy) is not None
    assert [path.name for path in tmp_path.iterdir()] == [copy.name]


def test_two_processes_may_convert_at_once_into_a_cache_that_is_damaged(tmp_path: Path) -> None:
    entry = tmp_path / converted._name(OpenVino("bf16"), SOURCE)
    entry.mkdir()
    (entry / CHECK).write_text("[]")
    with ThreadPoolExecutor() as pool:  # the converting itself is in processes
        made = [pool.submit(open_converted, OpenVino("bf16"), SOURCE, tmp_path, 1, 16) for _ in range(2)]
        vectors = [SentenceEncoder(SentenceTokenizer(FOLDER, 16), each.result(), "").encode(["hi"]) for each in made]
    assert (vectors[0] == vectors[1]).all()
    assert [path.name for path in tmp_path.iterdir()] == [entry.name]


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    old, fresh = tmp_path / ".making-old", tmp_path / ".making-fresh"
    for folder in (old, fresh):
        (folder / "made").mkdir(parents=True)
    os.utime(old, (0, 0))
    with converted._workshop(tmp_path) as made:
        assert {path.name for path in tmp_path.iterdir()} == {".making-fresh", made.parent.name}
    assert [path.name for path in tmp_path.iterdir()] == [".making-fresh"]


def test_a_cache_that_can_t_be_written_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    loaded = load_encoder(EncoderConfig(cache_folder=str(tmp_path / "file" / "cache"), max_tokens=16))
    assert loaded.runs_on.startswith("openvino")
    assert "can't be written (Not a directory): the encoder is converted at each start" in caplog.text
    assert loaded.encode(["hi"]).shape == (1, 1152)


def test_vectors_too_far_from_the_original_s_are_not_used(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(converted, "LEAST_COSINE", 1.1)
    before = files(cache)
    loaded = load_encoder(EncoderConfig(backend="onnx"))
    assert loaded.runs_on == "sentence-transformers fp32"
    assert "can't run on onnx, so on the next, slower one: converted, its vectors are too far" in caplog.text
    load_encoder(EncoderConfig(backend="onnx"))
    assert files(cache) == before or len(files(cache)) > len(before)  # judged once, known from then on


def test_a_backend_that_is_not_installed_is_replaced_by_the_next(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for package in ("openvino", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, None)
    with caplog.at_level(logging.WARNING):
        loaded = load_encoder(EncoderConfig(backend="openvino"))
    assert loaded.runs_on == "sentence-transformers fp32"
    assert [record.getMessage() for record in caplog.records] == [
        "the encoder can't run on openvino, so on the next, slower one: the package openvino is not installed",
        "the encoder can't run on onnx, so on the next, slower one: the package onnxruntime is not installed",
    ]
    assert loaded.encode(["hi"]).shape == (1, 1152)


def test_a_conversion_that_fails_says_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = tmp_path / "model"
    shutil.copytree(FOLDER, broken)
    (broken / "config.json").write_text('{"model_type": "bert", "hidden_act": "no such"}')
    with pytest.raises(converted.BackendUnusable, match=r"^converting it failed: .*no such"):
        open_converted(Onnx(), Source(broken, "0" * 64), tmp_path / "cache", 1, 16)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("machine", "configured", "expected"),
    [
        ("x86_64", "auto", ["openvino", "onnx"]),
        ("aarch64", "auto", ["onnx"]),
        ("aarch64", "openvino", ["openvino", "onnx"]),
        ("x86_64", "onnx", ["onnx"]),
        ("x86_64", "sentence-transformers", []),
    ],
)
def test_the_order_of_backends(
    machine: str, configured: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert [backend.name for backend in backends._backends(configured)] == expected


@pytest.mark.parametrize(("amx", "form"), [(True, "bf16"), (False, "int8")])
def test_the_form_suits_the_processor(amx: bool, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_network, "has", lambda flag: amx)
    assert OpenVino.here().form == form


def test_a_conversion_belongs_to_weights_form_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {converted._name(backend, SOURCE) for backend in BACKENDS}
    names.add(converted._name(Onnx(), Source(FOLDER, "0" * 64)))
    monkeypatch.setattr("importlib.metadata.version", lambda package: "99")
    names.add(converted._name(Onnx(), SOURCE))
    assert len(names) == 5


def test_the_check_is_kept_with_what_it_is_about(fast: SentenceEncoder, backend: Backend, cache: Path) -> None:
    check = json.loads((cache / converted._name(backend, SOURCE) / CHECK).read_text())
    assert converted.LEAST_COSINE <= check["least_cosine"] <= 1.0001

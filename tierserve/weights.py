"""Where a language model's weights come from: a folder, or the hub. Settled before any engine is built, so that what is
missing is said in seconds, with the remedy, and not in the traceback of an engine that died."""

import hashlib
import re
from pathlib import Path

from tierserve.errors import ConfigError

SUMS = "SHA256SUMS"

_SUM = re.compile(r"([0-9a-f]{64}) [ *](.+)")  # as sha256sum writes them
_HUB_TIMEOUT_S = 10


def check_weights(model: str, where: str) -> None:
    """Raise ConfigError unless `model`, the option at `where`, is a usable folder or can be had from the hub."""
    if Path(model).is_absolute() or Path(model).is_dir():
        _check_folder(Path(model), where)
    else:
        _check_hub(model, where)


def _check_folder(folder: Path, where: str) -> None:
    if not folder.is_dir():
        raise ConfigError(where, f"there is no folder {folder}", _how_to_make(folder))
    if not (folder / "config.json").is_file():
        raise ConfigError(where, f"{folder}/config.json is missing", _how_to_make(folder))
    sums = folder / SUMS
    if not sums.is_file():
        return
    for line in sums.read_text(errors="replace").splitlines():
        if not (found := _SUM.fullmatch(line)):
            continue  # a comment, or another tool's form
        expected, file = found[1], folder / found[2]
        if not file.is_file():
            raise ConfigError(where, f"{file} is missing", _how_to_make(folder))
        with file.open("rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() != expected:
                raise ConfigError(where, f"{file} is damaged: it does not match {SUMS}", _how_to_make(folder))


def _how_to_make(folder: Path) -> str:
    if folder.name.startswith("lab-"):
        return "restore it with `git checkout`, or make it again: python -m tierserve.lab train"
    return "check the path, or fetch the model again"


def _check_hub(repository: str, where: str) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        if isinstance(try_to_load_from_cache(repository, "config.json"), str):
            return
        # Asked once: hf_hub_download would try for half a minute to reach a hub that is not there.
        get_hf_file_metadata(hf_hub_url(repository, "config.json"), timeout=_HUB_TIMEOUT_S)
        return
    except HFValidationError:
        problem = f"{repository!r} is neither a folder nor a repository id"
        remedy = "write ./path for a folder beside this file, or owner/name for the hub"
    except GatedRepoError:
        problem = f"the hub asks for permission to read {repository!r}"
        remedy = "accept its licence on the hub and export HF_TOKEN=..., or name a folder that holds it"
    except RepositoryNotFoundError:
        problem = f"the hub has no repository {repository!r}, or it is private"
        remedy = "check the id; for a private one export HF_TOKEN=..."
    except Exception as error:  # whatever its HTTP client raises: it comes to this
        problem = f"{repository!r} is not on this machine and the hub can't be reached ({type(error).__name__})"
        remedy = (
            f"connect, or copy the result of `hf download {repository}` from a machine that can and name that folder, "
            "or point HF_HOME at a cache that has it"
        )
    raise ConfigError(where, problem, remedy)

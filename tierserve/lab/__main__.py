"""python -m tierserve.lab: make the lab's checkpoints, where they do not stand already."""

import argparse
from pathlib import Path

from tierserve.errors import ConfigError
from tierserve.lab.checkpoint import SHAPES, write_checkpoint
from tierserve.tiers.weights import check_weights

_FOLDER = Path(__file__).with_name("checkpoints")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tierserve.lab", description=__doc__)
    parser.add_argument("--folder", type=Path, default=_FOLDER, help="where the checkpoints go")
    folder = parser.parse_args().folder
    for name in SHAPES:
        try:
            check_weights(str((folder / name).resolve()), name)
        except ConfigError:
            print(f"making {folder / name}")
            write_checkpoint(name, folder / name)


if __name__ == "__main__":
    main()

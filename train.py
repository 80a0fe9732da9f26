"""The whole loop: `python train.py [key=value …]`, the same as `spot run`."""

import sys

try:
    from spot.cli.main import main
except ModuleNotFoundError as error:
    sys.exit(f"{error}: run `make install`, then `.venv/bin/python train.py`.")

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])

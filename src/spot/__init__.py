"""spot: Surgical Post-Training (SPoT, arXiv 2603.01683) as an experiment framework."""

import os

__version__ = "0.1.0"

# Torch's threads otherwise spin while they wait, and beside any other work on the same cores a step
# takes twenty times as long. Read when torch is first imported, which is after this.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

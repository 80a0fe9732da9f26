"""spot: Surgical Post-Training (SPoT, arXiv 2603.01683) as an experiment framework."""

__version__ = "0.1.0"

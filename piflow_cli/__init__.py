"""piflow: distil slow flow-matching image models into students of 1 to 8 network evaluations (arXiv 2510.14974)."""

__version__ = "0.1.0"

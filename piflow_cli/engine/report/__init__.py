"""Pages that open from disk, each one file without a network: what a run shows of itself, what a benchmark found."""

"""An attack on everything that piflow reads: seeded damage to files and arguments, each case run by the real entry.

`python -m fuzz` (with `tests` on the path) runs a campaign; `--target NAME --case N` runs one case again.
"""

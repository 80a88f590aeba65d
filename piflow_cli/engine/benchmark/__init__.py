"""Measuring students beside their teacher."""

from piflow_cli.engine.benchmark.benchmark import benchmark

__all__ = ["benchmark"]

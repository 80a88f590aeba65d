"""Distilling: a preset and a run folder in, a student out."""

from piflow_cli.engine.distill.distill import distill

__all__ = ["distill"]

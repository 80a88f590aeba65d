"""Drawing pictures with a student."""

from piflow_cli.engine.sample.sample import sample

__all__ = ["sample"]

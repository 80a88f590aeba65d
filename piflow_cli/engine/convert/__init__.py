"""Writing a student in another format, and checking one as it is."""

from piflow_cli.engine.convert.check import check
from piflow_cli.engine.convert.convert import convert

__all__ = ["check", "convert"]

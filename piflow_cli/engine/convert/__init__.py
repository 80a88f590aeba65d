"""Writing a student in another format."""

from piflow_cli.engine.convert.convert import convert

__all__ = ["convert"]

"""What users of diffusers expect of any pipeline, one function each: every file adds to the list."""

from behaviours import calls, conditions, placing, saved, styles
from behaviours.subject import BEHAVIOURS, TEXT, Subject

__all__ = ["BEHAVIOURS", "TEXT", "Subject", "calls", "conditions", "placing", "saved", "styles"]

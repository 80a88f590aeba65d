"""Protocols of papers: what they measure with, and what they published."""

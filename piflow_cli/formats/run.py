"""Names of what a run's folder holds beside its student and its checkpoints."""

PRESET, SOURCES, METRICS = "preset.json", "sources.json", "metrics.jsonl"
HISTORY, STARTS = "history.jsonl", "starts.jsonl"
"""What was changed when a run went on, and where and by what it was started each time."""
PREVIEWS, VALIDATION, REPORT = "previews", "validation", "report.html"
PAIRED = "paired_error"
"""The column of a validation that every one has."""

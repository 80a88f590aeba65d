"""What a benchmark shows besides numbers."""

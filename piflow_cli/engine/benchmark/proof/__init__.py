"""What lets a number be believed: how sure it is, and what it was measured by."""

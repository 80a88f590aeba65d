"""What quantising the base does to a student: the ways to hold it, and each one's row beside the whole one's."""

"""What a run needs to go on as if it had never stopped: checkpoints, what is in them, and what may have changed."""

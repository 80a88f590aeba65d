"""`piflow teacher`: what is done with teachers themselves."""

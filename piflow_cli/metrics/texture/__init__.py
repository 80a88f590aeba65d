"""What pictures show at the size of single patches."""

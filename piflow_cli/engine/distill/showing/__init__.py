"""What a run shows of itself while it goes on: its pace, its first lines, pictures of its student."""

"""Other people's LoRA on top of a student."""

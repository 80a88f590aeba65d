"""What a policy can say of a teacher at best, before any training."""

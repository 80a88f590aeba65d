"""Whether a family of teachers is right: measured on one of its teachers, against the base's own pipeline."""

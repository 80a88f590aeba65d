"""Whether the feature network that ships ranks pictures as one that nobody here trained: what is compared, and how."""

"""Drawing again and again with models that stay open, for a page where a person plays."""

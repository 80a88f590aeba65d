"""All that is attacked, by name."""

from fuzz import datasets, models, recipes

TARGETS = recipes.TARGETS | datasets.TARGETS | models.TARGETS

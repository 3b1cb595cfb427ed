"""optlayers finds which few layers of a donor model to put into a base model."""

__version__ = "0.1.0"

"""Hyper-parameter search: a genetic algorithm over settings of a recipe, and the record of its trials."""

"""Ablations: a base recipe, variants of it, seeds; trained, sampled and scored the same way, cell by cell."""

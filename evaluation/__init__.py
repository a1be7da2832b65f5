"""Scores folders of images, never models. Not part of the wheel."""

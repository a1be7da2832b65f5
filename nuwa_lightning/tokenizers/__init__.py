"""Images to grids of tokens and back."""

"""Pictures to grids of tokens and back."""

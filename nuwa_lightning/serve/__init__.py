"""A local page on which canvases are looked at, grown and made again in part (ours)."""

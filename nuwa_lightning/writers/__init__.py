"""Writers of canvases that may be larger than the memory."""

"""Plain ``nn.Module`` parts: they know nothing of Lightning, pools or files."""

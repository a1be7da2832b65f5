"""Reports people read: tables with intervals, curves, pictures side by side, and the commands that make it again."""

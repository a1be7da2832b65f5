"""Reports people read: tables with intervals, curves, images side by side, and the commands that make it again."""

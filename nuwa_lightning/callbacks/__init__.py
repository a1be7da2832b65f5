"""Images and exports while training goes on."""

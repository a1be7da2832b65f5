"""Pictures and exports while training goes on."""

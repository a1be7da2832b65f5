"""Speed and memory of writing, beside others at the same block parameters, all in one run."""

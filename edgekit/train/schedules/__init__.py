"""Learning rates over a training run, each a module with ``factor``: the share of the peak rate at one step."""

"""Where the values of each epoch go besides ``training.csv``: modules with ``start``, which returns a `Logger`."""

"""The layers beside their peers: checked first, then timed in turns, in one run."""

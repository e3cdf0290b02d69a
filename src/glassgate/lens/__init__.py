"""What to do with gates once recorded. Arrays in, from whichever face."""

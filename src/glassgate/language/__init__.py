"""The next-word application: text, training, evaluation."""

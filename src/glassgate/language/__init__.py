"""The next-word application: text, vocabulary, training, evaluation, prediction."""

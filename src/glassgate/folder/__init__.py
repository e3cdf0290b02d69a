"""A model on disk: configuration, weights, vocabulary; read and written safely, without torch."""

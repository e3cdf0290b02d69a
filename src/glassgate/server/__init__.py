"""A model behind HTTP: prediction, generation, gates and edits as JSON, and the page. No torch."""

from glassgate.server.running import Server

__all__ = ["Server"]

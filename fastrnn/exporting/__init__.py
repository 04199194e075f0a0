"""Models for programs without Python: what a model computes as a chain of operations, and files of it."""

from fastrnn.exporting.exporter import export

__all__ = ["export"]

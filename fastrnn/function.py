"""Temporary: will become the autograd Function. Same signature as reference.layer."""
from fastrnn.reference import layer as layer

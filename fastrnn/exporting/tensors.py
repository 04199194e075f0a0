"""Files in the format safetensors (https://huggingface.co/docs/safetensors)."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["read", "write"]

_TYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int8: "I8"}
_ALIGNMENT = 8


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end, parts = 0, []
    # The widest type first, so that each tensor is aligned to its own.
    for name, t in sorted(tensors.items(), key=lambda item: -item[1].itemsize):
        data = t.contiguous().view(torch.uint8).numpy().tobytes()
        header[name] = {"dtype": _TYPES[t.dtype], "shape": list(t.shape), "data_offsets": [end, end + len(data)]}
        end += len(data)
        parts.append(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    path.write_bytes(b"".join([len(text).to_bytes(8, "little"), text, *parts]))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file that ``write`` wrote."""
    content = path.read_bytes()
    size = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:size])
    metadata = header.pop("__metadata__")
    types = {name: dtype for dtype, name in _TYPES.items()}
    tensors = {}
    for name, info in header.items():
        begin, end = info["data_offsets"]
        data = bytearray(content[size + begin : size + end])
        tensors[name] = torch.frombuffer(data, dtype=types[info["dtype"]]).view(info["shape"])
    return tensors, metadata

"""Triton's interpreter in less time."""

from typing import Any

from triton import language
from triton.language.core import is_builtin
from triton.runtime import interpreter


def patch_once_a_launch() -> None:
    """Functions that a kernel calls find Triton's language as the first from their module has left it.

    The interpreter puts its own functions into the language when a kernel is launched, restores it in the end, and in
    between does the former again at every call of a function, for which it lists all that the language has: 40 % of
    the time of these tests, to no effect.
    """
    patch, patched = interpreter._patch_lang, set[int]()

    def patch_once(function: Any) -> Any:
        if is_builtin(language.load):  # a launch begins
            patched.clear()
        module = id(function.__globals__)
        if module in patched:
            return interpreter._LangPatchScope()
        patched.add(module)
        return patch(function)

    interpreter._patch_lang = patch_once

"""The type checker of the tests: annotated shapes and dtypes of arrays, nothing else.

Wrong plain values must reach the package's own errors, as they do for users, who run no checker. jaxtyping's own import
hook wraps every function there is, closures each time they are made, which is half the time of tracing.
"""

import ast
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder, SourceFileLoader

from beartype import beartype
from jaxtyping import AbstractArray, jaxtyped


def check_arrays(function):
    """The function, checked if it says anything of arrays."""
    annotations = getattr(function, "__annotations__", {})
    arrays = {name: kind for name, kind in annotations.items() if _is_array(kind)}
    if not arrays:
        return function
    function.__annotations__ = arrays
    return jaxtyped(function, typechecker=beartype)


def _is_array(kind) -> bool:
    return isinstance(kind, type) and issubclass(kind, AbstractArray)


@contextmanager
def arrays_checked(package: str) -> Iterator[None]:
    """Modules of the package that are imported meanwhile have every annotated function checked."""
    finder = _Finder(package)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder:
    def __init__(self, package):
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] != self.package:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def get_code(self, fullname):
        # not from the cache of compiled modules, which others import unchecked
        path = self.get_filename(fullname)
        tree = _Decorated().visit(ast.parse(self.get_data(path), path))
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)


class _Decorated(ast.NodeTransformer):
    """Every function that has annotations gets the checker as its first decorator, below those of JAX."""

    def visit_FunctionDef(self, node):
        self.generic_visit(node)
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        if node.returns or any(argument.annotation for argument in arguments):
            checker = ast.parse("__import__('tests.checker').checker.check_arrays", mode="eval").body
            node.decorator_list.append(ast.copy_location(checker, node))
        return node

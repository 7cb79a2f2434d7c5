"""Code branches on types and fields, not on the text of an exception or on the name of a class."""

import ast

import pytest
from test_imports import ROOT, modules

# Exceptions: libraries that give some information only in messages.
ALLOWED = {"train.errors": {"exhausted"}}
SEARCHES = {"startswith", "endswith", "find", "search", "match", "fullmatch", "partition"}


def branches_on_text(source: str) -> list[tuple[str, int]]:
    """List (function, line) of comparisons with, and searches in, the text of an exception or the name of a class."""
    found = []

    def visit(node: ast.AST, function: str, errors: frozenset[str], texts: frozenset[str]) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
            arguments = [*node.args.args, *node.args.kwonlyargs]
            errors = errors | {a.arg for a in arguments if a.annotation and _is_error(a.annotation)}
            for inner in ast.walk(node):
                if isinstance(inner, ast.ExceptHandler) and inner.name:
                    errors = errors | {inner.name}
            for inner in ast.walk(node):
                if isinstance(inner, ast.Assign) and _mentions_text(inner.value, errors, texts):
                    texts = texts | {t.id for t in inner.targets if isinstance(t, ast.Name)}
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
            if any(_mentions_text(operand, errors, texts) for operand in operands):
                found.append((function, node.lineno))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            operands = [node.func.value, *node.args]
            if node.func.attr in SEARCHES and any(
                _mentions_text(operand, errors, texts) for operand in operands
            ):
                found.append((function, node.lineno))
        for child in ast.iter_child_nodes(node):
            visit(child, function, errors, texts)

    visit(ast.parse(source), "", frozenset(), frozenset())
    return found


def _is_error(annotation: ast.expr) -> bool:
    return isinstance(annotation, ast.Name) and annotation.id.endswith(("Error", "Exception"))


def _mentions_text(node: ast.expr, errors: frozenset[str], texts: frozenset[str]) -> bool:
    """Return whether an expression contains the text of an exception or type(x).__name__."""
    for child in ast.walk(node):
        if isinstance(child, ast.Attribute) and child.attr == "__name__":
            owner = child.value
            if isinstance(owner, ast.Call) and isinstance(owner.func, ast.Name):
                return owner.func.id == "type"
        if (
            isinstance(child, ast.Call)
            and isinstance(child.func, ast.Name)
            and child.func.id == "str"
        ):
            return any(isinstance(a, ast.Name) and a.id in errors for a in child.args)
        if isinstance(child, ast.FormattedValue) and isinstance(child.value, ast.Name):
            return child.value.id in errors
        if isinstance(child, ast.Name) and child.id in texts:
            return True
    return False


@pytest.mark.slow
def test_no_code_branches_on_text():
    found = [
        f"{path.relative_to(ROOT)}:{line} in {function or 'the module'}"
        for name, path in modules()
        for function, line in branches_on_text(path.read_text("utf-8"))
        if function not in ALLOWED.get(name, ())
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "body",
    [
        "    except ValueError as error:\n        if 'too small' in str(error): pass",
        "    except ValueError as error:\n        text = f'{error}'\n        if 'full' in text: pass",
        "    except ValueError as error:\n        if str(error).startswith('not'): pass",
        "    except Exception as e:\n        if type(e).__name__ == 'InputError': pass",
    ],
)
def test_a_branch_on_text_is_found(body):
    assert branches_on_text(f"def f():\n    try: pass\n{body}\n")


def test_messages_may_quote_an_exception():
    source = "def f():\n    try: pass\n    except OSError as error:\n"
    source += "        raise ValueError(f'{error}: {type(error).__name__}') from error\n"
    source += "        return isinstance(error, FileNotFoundError) and error.errno == 2\n"
    assert not branches_on_text(source)

"""Definitions from files: JSON and YAML, bounded in size, with no key given twice."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from workflow_core.definitions.document import WorkflowDefinition
from workflow_core.errors import ValidationError, shown

if TYPE_CHECKING:
    import yaml

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["load_definition", "read_document"]

MAX_BYTES: Final = 1_048_576
"""Largest file of a definition."""

_MOST_DIGITS: Final = 1_000

MAX_VALUES: Final = 50_000
"""Most values of a document, those that aliases of YAML repeat counted each time."""

_YAML_SUFFIXES: Final = frozenset({".yaml", ".yml"})


def load_definition(source: str | Path | Mapping[str, Any] | WorkflowDefinition) -> WorkflowDefinition:
    """Read and check the definition of a workflow.

    Args:
        source: A file, ``.json``, ``.yaml`` or ``.yml`` (YAML needs the extra ``yaml``); or the document itself.

    Raises:
        ValidationError: The file cannot be read, or the document has mistakes; all of them are named, with their paths.
    """
    if isinstance(source, WorkflowDefinition):
        return source
    if isinstance(source, Mapping):
        return _defined(source, None)
    if not isinstance(source, (str, Path)):
        raise ValidationError(f"A definition is a file or a document, not {shown(source)}")
    path = Path(source)
    return _defined(read_document(path), path)


def _defined(document: Mapping[str, Any], path: Path | None) -> WorkflowDefinition:
    where = "" if path is None else f"{path}: "
    strange = [key for key in document if not isinstance(key, str)]
    if strange:
        raise ValidationError(f"{where}Invalid workflow definition:\n  document: has the key {strange[0]!r}, no text")
    try:
        return WorkflowDefinition(**document)
    except ValidationError as error:
        raise ValidationError(f"{where}{error}", error.errors) from None


def read_document(path: Path) -> Mapping[str, Any]:
    """Read a file of JSON or YAML that holds an object.

    Raises:
        ValidationError: It cannot be read, is too large, or is not such a file.
    """
    is_yaml = path.suffix.lower() in _YAML_SUFFIXES
    if not is_yaml and path.suffix.lower() != ".json":
        raise ValidationError(f"{path}: a definition is a .json, .yaml or .yml file")
    text = _text_of(path)
    document = _from_yaml(text, path) if is_yaml else _from_json(text, path)
    if not isinstance(document, Mapping):
        raise ValidationError(f'{path}: a definition is an object with "name" and "steps", not {_kind(document)}')
    return document


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValidationError(f"{path}: cannot read this file: {error.strerror}") from None
    except ValueError as error:  # a null character in its name
        raise ValidationError(f"{str(path)!r}: cannot read this file: {error}") from None
    if len(content) > MAX_BYTES:
        raise ValidationError(f"{path}: a definition has at most {MAX_BYTES} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValidationError(f"{path}: it is not text in UTF-8 (byte {error.start})") from None


def _kind(document: object) -> str:
    return {list: "a list", str: "a text", type(None): "nothing"}.get(type(document), f"a {type(document).__name__}")


def _from_json(text: str, path: Path) -> object:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no value of JSON")

    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise ValidationError(f"{path}: it is not JSON: {error}") from None
    except ValueError as error:
        raise ValidationError(f"{path}: {error}") from None
    except RecursionError:
        raise ValidationError(f"{path}: it is nested too deeply") from None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made: dict[str, object] = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"the key {key!r:.60} is given twice in one object")
        made[key] = value
    return made


# YAML ----------------------------------------------------------------------------------------------------------------


def _from_yaml(text: str, path: Path) -> object:
    try:
        import yaml  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise ValidationError(
            f'{path}: reading YAML needs the package PyYAML: pip install "pytest-workflow-core[yaml]"'
        ) from None
    loader = None
    try:
        loader = _make_loader(yaml)(text)  # which refuses characters that YAML does not have
        node = loader.get_single_node()
        if node is None:
            return None
        _check_nodes(yaml, node)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValidationError(f"{path}: it is not YAML: {error}") from None
    except (ValueError, OverflowError) as error:
        raise ValidationError(f"{path}: {error}") from None
    except RecursionError:
        raise ValidationError(f"{path}: it is nested too deeply") from None
    finally:
        if loader is not None:
            loader.dispose()


def _make_loader(yaml: Any) -> type[yaml.SafeLoader]:  # noqa: ANN401 - the module
    """Make a safe loader with the core schema of YAML 1.2: ``no``, ``12:30`` and dates are the texts they look like."""

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # the module is an argument
        yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - its own form

    for tag, pattern, firsts in (
        ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
        ("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", "-+0123456789"),
        ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("merge", r"<<", "<"),
    ):
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{pattern})$"), list(firsts))
    Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
    Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)
    Loader.add_constructor("tag:yaml.org,2002:bool", _construct_bool)
    for tag in ("binary", "timestamp", "set", "omap", "pairs"):  # what a document has no values for
        Loader.yaml_constructors.pop(f"tag:yaml.org,2002:{tag}", None)
    return Loader


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number has at most {_MOST_DIGITS} digits")
    return int(text, 16) if text.startswith("0x") else int(text)


def _construct_bool(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> bool:
    text = str(loader.construct_scalar(node))
    if text.lower() not in {"true", "false"}:
        raise ValueError(f"{text!r:.60} is neither true nor false")
    return text.lower() == "true"


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(str(loader.construct_scalar(node)))


def _check_nodes(yaml: Any, root: yaml.Node) -> None:  # noqa: ANN401 - the module
    """Refuse, before anything is made of it, what aliases would blow up, and keys that are given twice."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: Any) -> int:  # noqa: ANN401 - one of yaml's nodes
        if isinstance(node, yaml.ScalarNode):
            return 1
        if id(node) in sizes:
            return sizes[id(node)]
        if id(node) in open_nodes:
            raise ValueError("an alias refers to what it stands in")
        open_nodes.add(id(node))
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            total = 1 + sum(size(key) + size(value) for key, value in node.value)
        else:
            total = 1 + sum(size(item) for item in node.value)
        if total > MAX_VALUES:
            raise ValueError(
                f"a definition has at most {MAX_VALUES} values, those that aliases repeat counted each time"
            )
        open_nodes.remove(id(node))
        sizes[id(node)] = total
        return total

    size(root)


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if isinstance(key.value, str):
            if (key.tag, key.value) in seen and key.tag != "tag:yaml.org,2002:merge":
                raise ValueError(f"the key {key.value!r:.60} is given twice in one object{key.start_mark}")
            seen.add((key.tag, key.value))

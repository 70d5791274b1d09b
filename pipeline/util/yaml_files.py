"""YAML files, read with PyYAML's safe loader and checks for input that it accepts or fails on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lengthwise.errors import ConfigError
from lengthwise.util.text_files import EncodingError, read_text

_MAX_KEYS = 10_000


def load_yaml(path: Path) -> Any:
    """Read a YAML file in which no key is written twice.

    Raises:
        ConfigError: the configuration cannot be read, or is not YAML.
    """
    try:
        text = read_text(path)
    except (OSError, EncodingError) as error:
        raise ConfigError(
            f"{path}: the configuration cannot be read ({error}); give the path of a YAML file"
        ) from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, origin: str) -> Any:
    """Parse YAML in which no key is written twice.

    Args:
        origin: where the text comes from, for messages.

    Raises:
        ConfigError: it is not YAML.
    """
    try:
        return yaml.load(text, _UniqueKeyLoader)
    except RecursionError:
        raise ConfigError(f"{origin}: nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        # PyYAML raises the last three for a value that looks like a date or a number, or is tagged as one: 2024-13-01.
        raise ConfigError(f"{origin}: not valid YAML: {error}") from error


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys, of which PyYAML silently keeps the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # a list or a mapping: refused when the mapping is built
            if (key.tag, key.value) in seen:
                problem = f"the key {key.value!r} is written twice in one section; keep one of the two"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add((key.tag, key.value))
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _MAX_KEYS:  # nested merges: a few lines could fill the memory
            problem = f"more than {_MAX_KEYS:,} keys are merged into one section; write out the few that are needed"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)

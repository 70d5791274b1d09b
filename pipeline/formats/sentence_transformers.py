"""Folders of sentence-transformers with WordEmbeddings, LSTM and Pooling, and Dense and Normalize if there are any.

- Nothing that a folder names is imported: `type` and `tokenizer_class` are compared with the few known names.
- The layouts of versions 2 to 6 are read: modules in the root or in folders, old and new names of settings, and weights
  in safetensors or in PyTorch's format.
- Its LSTM hands on the states of all tokens, so its "lasttoken" is the state at the last token in both directions.
- A text without known words has no tokens, and its vector here is zeros. There, Dense layers change the zeros.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lengthwise.config import TokenizationSettings
from lengthwise.encoder.model import PackedEncoder
from lengthwise.errors import CheckpointError, TokenizerError
from lengthwise.formats.embedding_folder import MODULES_FILE, OLD_POOLINGS
from lengthwise.formats.parts import Direction, Linear, Parts, build_model
from lengthwise.formats.sentence_transformers_layout import (
    ACTIVATIONS,
    LINEAR,
    LSTM_FILE,
    LSTM_PREFIX,
    MODULE_FILE,
    NO_LIMIT,
    POOLINGS,
    SETTINGS_FILE,
    TABLE,
    TOKENIZER_CLASS,
    WEIGHTS_FILE,
    WORDS_FILE,
)
from lengthwise.formats.tensors import TensorFile, check_float, read_tensors
from lengthwise.formats.whitespace_tokenizer import WhitespaceVocabulary, whitespace_tokenizer
from lengthwise.tokens.tokenizer import TOKENIZER_FILE, TextTokenizer, load_tokenizer
from lengthwise.util.text_files import read_text

_LIBRARY = "sentence_transformers."
_WEIGHTS = (WEIGHTS_FILE, "pytorch_model.bin")
_VOCABULARY_FILE = "whitespacetokenizer_config.json"
_ACTIVATIONS = {path.rpartition(".")[2]: name for name, path in ACTIVATIONS.items()}


def read_sentence_transformers(folder: Path) -> tuple[PackedEncoder, TextTokenizer, list[str]]:
    """Read a folder; also what a user should know of it.

    Raises:
        CheckpointError: a file is missing or damaged, or the model has a module or setting that cannot be imported.
        TokenizerError: its tokenizer cannot be.
    """
    modules = _modules(folder)
    kinds = [kind for kind, _ in modules]
    if kinds[:3] != ["WordEmbeddings", "LSTM", "Pooling"]:
        raise CheckpointError(
            f"{folder}: its modules are {', '.join(kinds)}; models of WordEmbeddings, LSTM, Pooling, and Dense and"
            " Normalize after them are imported"
        )
    _check_prompt(folder)
    (_, words), (_, lstm), (_, pooling), *rest = modules
    notes: list[str] = []
    settings = _settings(words, WORDS_FILE)
    tokenizer = _tokenizer(words, settings)
    limit = settings.get("max_seq_length")
    limit = NO_LIMIT if limit is None else limit
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise CheckpointError(f"{words}: max_seq_length is {limit!r}; set it to a number of tokens from 1 on, or null")
    tokenization = TokenizationSettings()
    if limit < NO_LIMIT:
        tokenization = TokenizationSettings(max_length=limit, truncate=True)
        if tokenizer.suffix:
            notes.append(
                f"a text of more than {limit} tokens ends with its special tokens here, which sentence-transformers"
                " cuts"
            )
    lstm_settings = _settings(lstm, LSTM_FILE)
    parts = Parts(
        embedding=_tensor(_weights(words), TABLE),
        layers=_layers(_weights(lstm), lstm_settings, str(lstm)),
        pooling=_pooling(_settings(pooling, MODULE_FILE), lstm_settings.get("bidirectional", True), str(pooling)),
        tokenization=tokenization,
    )
    rows = len(parts.embedding)
    if tokenizer.vocab_size != rows and (words / _VOCABULARY_FILE).is_file():
        raise CheckpointError(
            f"{words}: its vocabulary has {tokenizer.vocab_size} words, but the embedding {rows} rows; give the"
            " vocabulary that the model was trained with"
        )
    parts = _add_rest(parts, rest)
    if parts.dense:
        notes.append("a text without tokens has a vector of zeros here; sentence-transformers puts zeros through Dense")
    return build_model(parts, tokenizer, str(folder)), tokenizer, notes


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """The name of each module's class, and its folder; Dropout, which does nothing at inference, is left out."""
    entries = _read_json(folder / MODULES_FILE)
    modules = []
    if not isinstance(entries, list) or not entries:
        raise CheckpointError(f"{folder / MODULES_FILE}: not a list of modules")
    for entry in entries:
        kind, path = (entry.get("type"), entry.get("path")) if isinstance(entry, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(path, str):
            raise CheckpointError(f"{folder / MODULES_FILE}: {entry!r} has no type and path")
        if not kind.startswith(_LIBRARY):
            raise CheckpointError(
                f"{folder / MODULES_FILE}: the type {kind!r} is code of another library; nothing that a model names is"
                " imported"
            )
        place = (folder / path).resolve()
        if not place.is_relative_to(folder.resolve()):
            raise CheckpointError(f"{folder / MODULES_FILE}: the path {path!r} leads out of the folder")
        modules.append((kind.rpartition(".")[2], place))
    return [(kind, path) for kind, path in modules if kind != "Dropout"]


def _check_prompt(folder: Path) -> None:
    path = folder / SETTINGS_FILE
    record = _read_json(path) if path.is_file() else {}
    name = record.get("default_prompt_name") if isinstance(record, dict) else None
    prompts = record.get("prompts") if name is not None else None
    prompt = prompts.get(name) if isinstance(prompts, dict) else None
    if prompt:
        raise CheckpointError(
            f"{path}: every text gets the prompt {prompt!r} before it, which is not imported; set default_prompt_name"
            " to null, and put the prompt before the texts yourself"
        )


def _tokenizer(folder: Path, settings: Mapping[str, Any]) -> TextTokenizer:
    name = settings.get("tokenizer_class")
    kind = name.rpartition(".")[2] if isinstance(name, str) and name.startswith(_LIBRARY) else None
    if kind == "WhitespaceTokenizer":
        path = folder / _VOCABULARY_FILE
        record = _settings(folder, path.name)
        words, stop_words = record.get("vocab"), record.get("stop_words")
        if not isinstance(words, list) or not isinstance(stop_words, list) or not _are_strings([*words, *stop_words]):
            raise TokenizerError(f"{path}: vocab and stop_words are not lists of words")
        return whitespace_tokenizer(
            WhitespaceVocabulary(words, stop_words, lowercase=bool(record.get("do_lower_case", False)))
        )
    if kind == TOKENIZER_CLASS:
        tokenizer = load_tokenizer(folder / TOKENIZER_FILE)
        _check_tokenizer_settings(folder, tokenizer)
        return tokenizer
    if kind == "PhraseTokenizer":
        raise TokenizerError(
            f"{folder}: its PhraseTokenizer cannot be written as a tokenizer.json. It splits texts by NLTK's"
            " word_tokenize, some thirty substitutions that put parts of what they match back, and a tokenizer.json"
            " replaces a match by a constant; and it joins tokens to phrases, longest first, and nothing of a"
            " tokenizer.json joins tokens across words. Replace it by a WhitespaceTokenizer with the same vocabulary,"
            " which finds no phrases"
        )
    raise TokenizerError(
        f"{folder}: tokenizer_class is {name!r}; WhitespaceTokenizer and {TOKENIZER_CLASS} of"
        " sentence-transformers are imported"
    )


def _check_tokenizer_settings(folder: Path, tokenizer: TextTokenizer) -> None:
    """Refuse settings beside a tokenizer.json that transformers puts over what is in it."""
    path = folder / "tokenizer_config.json"
    settings = _settings(folder, path.name) if path.is_file() else {}
    parts = list(_nested(json.loads(tokenizer.to_json()).get("normalizer")))
    is_lower = any(part.get("type") == "Lowercase" or part.get("lowercase") is True for part in parts)
    found = {
        "do_lower_case": is_lower,
        "strip_accents": any(map(_strips_accents, parts)),
        "add_bos_token": bool(tokenizer.prefix),
        "add_eos_token": bool(tokenizer.suffix),
    }
    for name, actual in found.items():
        if isinstance(settings.get(name), bool) and settings[name] != actual:
            raise TokenizerError(
                f"{path}: {name} is {settings[name]}, but tokenizer.json does otherwise; save it again with"
                " AutoTokenizer.from_pretrained(folder).save_pretrained(folder), and set it as tokenizer.json has it"
            )


def _strips_accents(part: dict[str, Any]) -> bool:
    """Whether a normalizer does; BERT's does where it lowers, unless its setting says otherwise."""
    if part.get("type") == "BertNormalizer":
        setting = part.get("strip_accents")
        return bool(part.get("lowercase") if setting is None else setting)
    return part.get("type") == "StripAccents"


def _nested(node: Any) -> Iterator[dict[str, Any]]:
    """A normalizer and those within it."""
    if isinstance(node, dict):
        yield node
        for each in node.get("normalizers") or ():
            yield from _nested(each)


def _layers(weights: TensorFile, settings: Mapping[str, Any], origin: str) -> list[list[Direction]]:
    count, directions = settings.get("num_layers", 1), 2 if settings.get("bidirectional", True) else 1
    names = [
        [f"l{layer}{suffix}" for suffix in ("", "_reverse")[:directions]]
        for layer in range(count if isinstance(count, int) and 0 < count < 100 else 0)
    ]
    known = {
        f"{LSTM_PREFIX}{part}_{name}"
        for layer in names
        for name in layer
        for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    if known != set(weights.tensors):
        raise CheckpointError(
            f"{origin}: by {LSTM_FILE} it has {count} layers of {directions} directions, but its weights are"
            f" {', '.join(sorted(weights.tensors))}"
        )
    return [
        [
            Direction(  # type: ignore[call-arg]
                *(  # type: ignore[arg-type]
                    weights.tensors[f"{LSTM_PREFIX}{part}_{name}"]
                    for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                ),
                f"encoder {name}",
            )
            for name in layer
        ]
        for layer in names
    ]


def _pooling(settings: Mapping[str, Any], bidirectional: bool, origin: str) -> str:
    modes = settings.get("pooling_mode")
    if modes is None:
        modes = [mode for key, mode in OLD_POOLINGS.items() if settings.get(key)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    unknown = [mode for mode in modes if mode not in POOLINGS]
    if unknown:
        raise CheckpointError(
            f"{origin}: its pooling is {unknown[0]!r}; {', '.join(POOLINGS)} are imported, alone or side by side"
        )
    parts = [POOLINGS[mode] for mode in modes]
    return "_".join(parts if bidirectional else ["last" if part == "end" else part for part in parts])


def _add_rest(parts: Parts, modules: list[tuple[str, Path]]) -> Parts:
    """Dense layers, and at the end Normalize."""
    dense: list[tuple[Linear, str]] = []
    for number, (kind, folder) in enumerate(modules):
        settings = _settings(folder, MODULE_FILE) if kind == "Dense" or (folder / MODULE_FILE).is_file() else {}
        for key in ("module_input_name", "module_output_name"):
            if settings.get(key) not in (None, "sentence_embedding"):
                raise CheckpointError(
                    f"{folder}: {key} is {settings[key]!r}; only layers of sentence_embedding are imported"
                )
        if kind == "Normalize" and number == len(modules) - 1:
            return replace(parts, dense=dense, settings={**parts.settings, "normalize": True})
        if kind != "Dense":
            raise CheckpointError(
                f"{folder}: the module {kind} cannot be imported at this place; after Pooling come Dense, and at the"
                " end Normalize"
            )
        name = settings.get("activation_function", ACTIVATIONS["tanh"])
        activation = _ACTIVATIONS.get(str(name).rpartition(".")[2]) if str(name).startswith("torch.nn.") else None
        if activation is None or settings.get("use_residual"):
            found = f"activation_function is {name!r}" if activation is None else "use_residual is true"
            raise CheckpointError(f"{folder}: {found}, which cannot be imported; there are {', '.join(_ACTIVATIONS)}")
        weights = _weights(folder)
        linear = Linear(_tensor(weights, f"{LINEAR}.weight"), weights.tensors.get(f"{LINEAR}.bias"), str(folder))
        dense.append((linear, activation))
    return replace(parts, dense=dense)


def _weights(folder: Path) -> TensorFile:
    found = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise CheckpointError(f"{folder}: its weights ({' or '.join(_WEIGHTS)}) are missing")
    weights = read_tensors(found)
    for name, tensor in weights.tensors.items():
        check_float(tensor, name, found)
    return weights


def _tensor(weights: TensorFile, name: str) -> Any:
    if name not in weights.tensors:
        raise CheckpointError(f"{weights.path}: {name} is missing; there is {', '.join(sorted(weights.tensors))}")
    return weights.tensors[name]


def _settings(folder: Path, name: str) -> dict[str, Any]:
    record = _read_json(folder / name)
    if not isinstance(record, dict):
        raise CheckpointError(f"{folder / name}: holds {type(record).__name__}, not settings")
    return record


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the file is missing; the model is incomplete") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error})") from error


def _are_strings(values: list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)

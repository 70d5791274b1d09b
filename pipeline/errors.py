"""The exceptions for problems that a user can fix.

- Every message names the file or setting, the value found and the remedy.
- Scripts print the message alone and exit with 2; any other exception is a bug of this project.
"""


class LengthwiseError(Exception):
    """A problem that the user can fix; `str(error)` is one paragraph that says how."""


class ConfigError(LengthwiseError):
    """A run's YAML file, or a `--set`, is not a valid configuration."""


class DatasetError(LengthwiseError):
    """The input cannot be opened, or lacks what the configuration names."""


class TextError(LengthwiseError):
    """A row's text cannot be encoded under the configured policy."""


class TokenizerError(LengthwiseError):
    """A tokenizer cannot be trained, loaded, or used with this model."""


class CheckpointError(LengthwiseError):
    """A checkpoint folder is incomplete or its sizes do not fit each other."""


class StoreError(LengthwiseError):
    """An output folder cannot be written, or belongs to another run."""


class RunError(LengthwiseError):
    """A run stopped early: a part of it failed, or a worker died. What was committed is safe."""


class ArtifactError(LengthwiseError):
    """An artifact folder is incomplete or changed, or an export cannot be made."""

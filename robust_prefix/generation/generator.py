"""Writing behind a prefix: ``transformers``' own decoding with the prefix as its cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robust_prefix.backbones import Backbone, load_backbone
from robust_prefix.configs import DecodingConfig, SamplingConfig
from robust_prefix.data import length_batches
from robust_prefix.errors import ArtifactError, ConfigError, InputError, RobustPrefixError
from robust_prefix.files import read_json, write_json
from robust_prefix.generation.bleu import Bleu, by_source, measure_bleu
from robust_prefix.generation.prompts import decoder, prompt_rows
from robust_prefix.generation.tasks import GenerationTask, Pair
from robust_prefix.prefixes import PREFIX_FILE, Prefix
from robust_prefix.runs import prefix_of_run

GENERATION_FILE = "generation.json"
"""Its name in a run directory."""


class PrefixGenerator:
    """A frozen decoder, a generation task and a prefix.

    Args:
        measurements: what is known of the prefix, kept for :meth:`save_pretrained`.

    Raises:
        ArtifactError: the prefix belongs to another base model.
        ConfigError: the model is no decoder, or the prefix is not one in every layer and nothing
            else.
    """

    def __init__(
        self,
        backbone: Backbone,
        task: GenerationTask,
        prefix: Prefix,
        measurements: dict[str, Any] | None = None,
    ) -> None:
        self.backbone = decoder(backbone)
        prefix.check_base(backbone)
        if set(prefix.learned.tensors()) != {"prefix"} or prefix.layers is not None:
            raise ConfigError(
                "expected keys and values in every layer to generate with, got a prefix of "
                f"{', '.join(prefix.learned.tensors())} in "
                f"{'all' if prefix.layers is None else 'some'} layers; train one with "
                "robust-prefix train-generation"
            )
        self.task = task
        self.prefix = prefix
        self.measurements = measurements or {}
        self._keys_and_values = prefix.tensor.to(backbone.device, backbone.dtype)

    def generate(
        self,
        sources: Sequence[str],
        decoding: DecodingConfig | None = None,
        batch_size: int = 16,
    ) -> list[str]:
        """One text for each source; the most likely one that the search finds.

        Raises:
            InputError: a source is no text or too long; its place is named.
        """
        decoding = decoding or DecodingConfig()
        settings = {
            "max_new_tokens": decoding.max_new_tokens,
            "num_beams": decoding.beams,
            # of no use to greedy search, and warned of there
            "length_penalty": decoding.length_penalty if decoding.beams > 1 else None,
            "do_sample": False,
        }
        rows = self._rows(sources, decoding.max_new_tokens)
        different = list(dict.fromkeys(rows))
        texts: dict[tuple[int, ...], str] = {}
        for batch in length_batches([len(row) for row in different], batch_size):
            chosen = [different[index] for index in batch]
            said = self._continued(chosen, settings, decoding.beams)
            texts |= zip(chosen, map(self._text, said), strict=True)
        return [texts[row] for row in rows]

    def sample(
        self, sources: Sequence[str], sampling: SamplingConfig | None = None, seed: int = 0
    ) -> list[str | None]:
        """One text for each source, drawn at random; the same source may be given many times.

        They are written side by side, as one batch.

        Args:
            seed: the same draws the same texts from the same list, on the same machine.

        Returns:
            The texts in order; None for one that did not end within ``max_new_tokens``.

        Raises:
            InputError: a source is no text or too long; its place is named.
        """
        sampling = sampling or SamplingConfig()
        settings = {
            "max_new_tokens": sampling.max_new_tokens,
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
        }
        rows = self._rows(sources, sampling.max_new_tokens)
        if not rows:
            return []
        end = self.backbone.tokenizer.eos_token_id
        device = self.backbone.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            said = self._continued(rows, settings)
        return [self._text(tokens) if end in tokens else None for tokens in said]

    def _rows(self, sources: Sequence[str], max_new_tokens: int) -> list[tuple[int, ...]]:
        """The tokens of each prompt, where there is room for prefix, prompt and text."""
        rows = [tuple(row) for row in prompt_rows(self.backbone, self.task, sources)]
        longest = max(map(len, rows), default=0) + self.prefix.length
        if longest + max_new_tokens > self.backbone.max_positions:
            raise InputError(
                f"expected at most {self.backbone.max_positions} positions for "
                f"{self.backbone.name}, got a prefix and a source of {longest} and "
                f"max_new_tokens={max_new_tokens}; lower it"
            )
        return rows

    def measure(
        self, pairs: Sequence[Pair], decoding: DecodingConfig | None = None, batch_size: int = 16
    ) -> Bleu:
        """BLEU of what is generated for each different source, against all its targets.

        Raises:
            ResourceError: ``sacrebleu`` is not installed.
        """
        targets = by_source(pairs)
        return measure_bleu(
            self.generate(list(targets), decoding, batch_size), list(targets.values())
        )

    def _continued(
        self, rows: Sequence[Sequence[int]], settings: Mapping[str, Any], copies: int = 1
    ) -> list[list[int]]:
        """The tokens that follow each prompt, padded behind the one that ends a text.

        Args:
            settings: of ``GenerationConfig``.
            copies: of each prompt that are gone on with side by side.
        """
        from transformers import GenerationConfig

        tokenizer, past = self.backbone.tokenizer, self.prefix.length
        width = max(map(len, rows))
        end = tokenizer.eos_token_id
        # transformers wants ids for what is in the cache, too, and never looks at them; a prompt
        # is padded before it, so that what is said follows it at once.
        ids = torch.full((len(rows), past + width), end)
        real = torch.ones_like(ids)
        for number, row in enumerate(rows):
            ids[number, past + width - len(row) :] = torch.tensor(row)
            real[number, past : past + width - len(row)] = 0
        config = GenerationConfig(**settings, eos_token_id=end, pad_token_id=end)
        with self.backbone.lock, torch.no_grad():
            said: Tensor = self.backbone.model.generate(
                input_ids=ids.to(self.backbone.device),
                attention_mask=real.to(self.backbone.device),
                past_key_values=self._cache(len(rows) * copies),
                generation_config=config,
                use_model_defaults=False,
            )
        found: list[list[int]] = said[:, past + width :].tolist()
        return found

    def _cache(self, rows: int) -> Any:
        """The prefix as the cache of that many rows; it grows, and so is made anew each time."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer, (keys, values) in enumerate(self._keys_and_values):
            shape = (rows, *keys.shape)
            cache.update(keys.expand(shape).contiguous(), values.expand(shape).contiguous(), layer)
        return cache

    def _text(self, tokens: list[int]) -> str:
        end = self.backbone.tokenizer.eos_token_id
        said = tokens[: tokens.index(end)] if end in tokens else tokens
        return self.backbone.decode(said).strip()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a run directory; the frozen model is named in it, not copied.

        Raises:
            StorageError: writing failed; nothing is left half-written.
        """
        self.prefix.save(Path(folder) / PREFIX_FILE)
        write_json(
            Path(folder) / GENERATION_FILE,
            {
                "task": {**self.task.to_dict(), "splits": dict(self.task.splits)},
                "base_model": self.prefix.base_model,
                "base_fingerprint": self.prefix.base_fingerprint,
                "prefix_fingerprint": self.prefix.fingerprint,
                "measurements": self.measurements,
            },
        )

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        backbone: Backbone | None = None,
        device: str = "auto",
        dtype: str = "auto",
        data_dir: str | Path | None = None,
    ) -> PrefixGenerator:
        """Load a run directory of :meth:`save_pretrained`.

        Args:
            backbone: a loaded base model to share; loaded by the run's name where not given.

        Raises:
            ArtifactError: the run is missing or damaged, or belongs to another base model.
        """
        path = Path(folder) / GENERATION_FILE
        if not path.is_file():
            raise ArtifactError(
                f"expected a run directory with {GENERATION_FILE} at {folder}, got none; "
                "make one with robust-prefix train-generation"
            )
        values = read_json(path)
        try:
            task = GenerationTask.from_dict(values["task"], data_dir)
            measurements = dict(values["measurements"])
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"expected {error} in {path}, got none") from None
        except RobustPrefixError as error:
            raise ArtifactError(f"{error} (in {path})") from None
        prefix = prefix_of_run(Path(folder), values, GENERATION_FILE)
        if backbone is None:
            backbone = load_backbone(prefix.base_model, device=device, dtype=dtype)
        return cls(backbone, task, prefix, measurements)

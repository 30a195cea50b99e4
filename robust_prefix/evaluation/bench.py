"""One cell from its parts: who is attacked, on which examples, beside which controls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robust_prefix.backbones import Backbone
from robust_prefix.classifier import PrefixClassifier
from robust_prefix.data import fingerprint_rows, load_split
from robust_prefix.defenses import (
    Defense,
    NoDefense,
    RandomPrefix,
    RobustPrefix,
    Synonyms,
    WordScoresDefense,
    WrappingDefense,
    layers,
)
from robust_prefix.errors import ConfigError, ResourceError
from robust_prefix.evaluation.outputs import check_folder, write_results
from robust_prefix.evaluation.protocols import PROTOCOLS, Attack, Example, RecordedAttack
from robust_prefix.evaluation.quality import (
    Encoder,
    LanguageModel,
    Scorers,
    as_language_model,
    measure_quality,
    unmeasured,
)
from robust_prefix.evaluation.records import RECORDED, Manifest, Setting
from robust_prefix.evaluation.results import Results
from robust_prefix.evaluation.runner import Progress, evaluate
from robust_prefix.evaluation.sampling import sample_examples, shuffled
from robust_prefix.evaluation.store import RecordStore
from robust_prefix.evaluation.summary import Summary
from robust_prefix.evaluation.trial import System
from robust_prefix.progress import progress
from robust_prefix.specs import Spec, parse_composition
from robust_prefix.tasks import Fields, Task

if TYPE_CHECKING:
    from datasets import Dataset

DATABASE = "run.sqlite"
_CONTROL_TEXTS = 64


def matching_controls(
    classifier: PrefixClassifier,
    defense: Defense[Any],
    texts: Sequence[Fields],
    seeds: Sequence[int],
) -> tuple[str, ...]:
    """What does as much as a defence, at random: the random controls; none for most.

    Beside a prefix that is tuned stand random prefixes; beside scores of words the same scores and
    beside words read as others the same words, dealt out anew. What they do as much of is measured
    once, on the first texts of the run itself. What stands before in a defence stands before its
    control too.

    Returns:
        Canonical specs, one a seed.
    """
    inner, texts = defense, texts[:_CONTROL_TEXTS]
    dealt: dict[int, dict[str, dict[str, str]]] = {seed: {} for seed in seeds}
    while isinstance(inner, WrappingDefense):
        for seed, parts in dealt.items():
            if isinstance(inner, WordScoresDefense) and inner.config.shuffled is None:
                parts[inner.name] = {"shuffled": str(seed), "scale": _scale(inner, texts, seed)}
            elif isinstance(inner, Synonyms) and inner.config.shuffled is None:
                parts[inner.name] = {"shuffled": str(seed)}
        texts = [read for text in texts for read in inner.passed_on(text)]
        inner = inner.inner
    if not seeds or not isinstance(inner, RobustPrefix) or inner.config.steps == 0:
        return tuple(_with(defense.spec, parts) for parts in dealt.values() if parts)
    found = RandomPrefix.matching(inner, classifier.model, texts)
    config = dataclasses.asdict(found.config)
    outer = defense.spec.removesuffix(inner.spec)
    return tuple(outer + RandomPrefix(**config | {"seed": seed}).spec for seed in seeds)


def _scale(words: WordScoresDefense, texts: Sequence[Fields], seed: int) -> str:
    """By how much scores that are dealt out anew say as much of the texts as they did."""
    random = words.fitted.shuffled(seed).strength(texts)
    scale = words.fitted.strength(texts) / random if random else 1.0
    return str(round(scale * (words.config.scale or 1.0), 4))


def _with(spec: str, settings: Mapping[str, Mapping[str, str]]) -> str:
    """The defence with further settings of its parts, by name."""
    return "+".join(
        str(Spec(part.name, {**part.settings, **settings.get(part.name, {})}))
        for part in parse_composition(spec)
    )


@dataclass(frozen=True)
class Bench:
    """A cell with all that is needed to run it.

    Attributes:
        task: with the places of its data.
        manifest: what defines the cell.
        systems: the undefended first.
        attack: what searches for adversaries.
        examples: what is attacked.
        rows: the split they were drawn from; None where there is none here.
        backbone: the frozen model.
    """

    task: Task
    manifest: Manifest
    systems: tuple[System, ...]
    attack: Attack
    examples: tuple[Example, ...]
    rows: Dataset | None
    backbone: Backbone

    @classmethod
    def prepare(
        cls,
        classifier: PrefixClassifier,
        attack: Attack,
        rows: Dataset | None,
        *,
        defenses: Sequence[Defense[Any]],
        protocols: Sequence[str],
        num_examples: int,
        seed: int,
        control_seeds: int,
        controls: Mapping[str, tuple[str, ...]] | None = None,
    ) -> Bench:
        """Put a cell together; where ``controls`` are not known yet their norm is measured.

        Args:
            classifier: its own defence does not matter.
            rows: the split to draw from; None may be given with a recorded attack, which brings
                its own examples.
            defenses: what is put to the test; ``none`` stands beside them in any case.
            protocols: any of ``replay``, ``direct``, ``adaptive`` and ``worst``.
            num_examples: how many examples to draw; of a recorded attack at most all it has.
            seed: of the draw, and of all else in the cell.
            control_seeds: how many controls stand beside each defence that has any; control ``i``
                is seeded with ``seed + i``.
            controls: what an earlier call found, see ``Manifest.controls``.

        Raises:
            ConfigError: an unknown protocol, one that a recorded attack cannot serve, or too many
                examples.
            InputError: a label of a recorded attack is not the task's.
        """
        task, backbone = classifier.task, classifier.model.backbone
        asked = check_protocols(protocols, attack)
        if isinstance(attack, RecordedAttack):
            every = attack.examples(task.label)
            if num_examples < 1:
                raise ConfigError(f"expected 1 or more examples, got {num_examples}")
            chosen = shuffled(len(every), seed)[:num_examples]
            examples = [every[place] for place in chosen]
            fingerprint = attack.sha256[:16]
        elif rows is None:
            raise ConfigError(f"expected rows to attack with {attack.spec}, got none")
        else:
            examples = sample_examples(task, rows, num_examples, seed)
            fingerprint = fingerprint_rows(rows)
        tested = {d.spec: d for d in defenses if not isinstance(d, NoDefense)}
        if controls is None:
            texts = [example.fields for example in examples]
            seeds = range(seed, seed + control_seeds)
            found = {
                spec: matching_controls(classifier, defense, texts, seeds)
                for spec, defense in tested.items()
            }
            controls = {spec: specs for spec, specs in found.items() if specs}
        for spec in tested:
            of = [name for name, specs in controls.items() if spec in specs]
            if of:
                raise ConfigError(
                    f"expected no random control among the defences, got {spec}, that of {of[0]}; "
                    "leave it out, it stands beside it in any case"
                )
        built = {
            spec: tested.get(spec) or classifier.build_defense(spec)
            for spec in (*tested, *(name for specs in controls.values() for name in specs))
        }
        # what an attack does not read cannot be hidden from it
        reads = not isinstance(attack, RecordedAttack) and (
            attack.threat.knowledge in ("score", "gradient")
        )
        hiding = tuple(spec for spec, defense in built.items() if reads and defense.hides_scores)
        manifest = Manifest(
            task=task.name,
            columns=task.columns,
            labels=task.labels,
            model=backbone.name,
            prefix=classifier.model.prefix.fingerprint,
            attack=attack.spec,
            seed=seed,
            n=len(examples),
            test_fingerprint=fingerprint,
            defenses=tuple(tested),
            protocols=asked,
            hiding=hiding,
            controls=controls,
            settings={
                "dtype": str(backbone.dtype).removeprefix("torch."),
                "device": backbone.device.type,
                "base_fingerprint": backbone.fingerprint,
                "task_fingerprint": task.fingerprint,
                **attack_settings(attack),
                **subspace_settings(tested.values()),
            },
        )
        systems = tuple(
            System(role, classifier.with_defense(built.get(spec) or NoDefense()))
            for spec, role in manifest.systems.items()
        )
        return cls(task, manifest, systems, attack, tuple(examples), rows, backbone)

    def training(self) -> list[Example]:
        """All training examples of the task, in a seeded order, for an attack that needs some.

        Raises:
            ConfigError, ResourceError: the task has no training split here.
        """
        rows = load_split(self.task, "train")
        return sample_examples(self.task, rows, len(rows), self.manifest.seed)

    def others(self) -> list[Example]:
        """Examples that are not attacked, in a seeded order: of dev, else the rest of the split;
        where neither is here, none."""
        drawn = {example.fields for example in self.examples}
        rows: Dataset | None
        try:
            rows = load_split(self.task, "dev")
        except (ConfigError, ResourceError):  # nobody asked for it: the rest serves too
            rows = self.rows
        if rows is None:
            return []
        every = sample_examples(self.task, rows, len(rows), self.manifest.seed)
        return [example for example in every if example.fields not in drawn]


def check_protocols(protocols: Sequence[str], attack: Attack) -> tuple[str, ...]:
    """``protocols`` in their usual order; for a recorded attack ``replay`` alone.

    Raises:
        ConfigError: one is unknown, there is none, or ``replay`` is not among those asked of a
            recorded attack.
    """
    for name in protocols or ("",):
        if name not in PROTOCOLS:
            raise ConfigError(f"expected a protocol of {'/'.join(PROTOCOLS)}, got {name!r}")
    asked = tuple(name for name in PROTOCOLS if name in protocols)
    if not isinstance(attack, RecordedAttack):
        return asked
    if "replay" not in asked:
        raise ConfigError(
            f"expected the protocol replay for {attack.name}, got {'/'.join(asked)}; recorded "
            "adversaries can be shown to a model but cannot attack it"
        )
    return ("replay",)


def subspace_settings(defenses: Iterable[Defense[Any]]) -> dict[str, Setting]:
    """Which subspaces defences were built from; what else is fitted stands in their specs."""
    found = {
        layer.built_from.subspaces.fingerprint
        for defense in defenses
        for layer in layers(defense)
        if layer.built_from.subspaces is not None
    }
    return {"subspaces": " ".join(sorted(found))} if found else {}


def attack_settings(attack: Attack) -> dict[str, Setting]:
    """What a record has to say of an attack: threat model, goal, deviation, resources."""
    threat = attack.threat
    recorded = {RECORDED: attack.sha256} if isinstance(attack, RecordedAttack) else {}
    return {
        "threat.knowledge": threat.knowledge,
        "threat.columns": ", ".join(threat.columns),
        "threat.edits": threat.edits,
        "threat.max_queries": threat.max_queries,
        "goal": attack.goal,
        "deviation": attack.deviation,
        **{f"resource.{name}": found for name, found in attack.resources.items()},
        **recorded,
    }


def run_attack(
    classifier: PrefixClassifier,
    attack: Attack,
    rows: Dataset,
    *,
    defense: Defense[Any],
    protocol: str,
    num_examples: int,
    seed: int,
    out: str | Path,
    control_seeds: int = 1,
    encoder: Callable[[], Encoder] | None = None,
) -> Summary:
    """Attack a classifier undefended and defended, with controls beside what tunes a prefix and
    what scores or reads words.

    Records go to ``out/run.sqlite`` as each example ends; the same call takes a killed run up
    again. At the end ``results.csv``, ``summary.json`` and ``report.html`` are written.

    Args:
        rows: the split to draw from, see :func:`robust_prefix.data.load_split`.
        defense: what is put to the test; ``none`` attacks the undefended classifier alone.
        protocol: ``replay``, ``direct``, ``adaptive`` or ``worst``.
        control_seeds: how many random controls.
        encoder: loads what the similarity of adversaries is measured with; none without it.

    Raises:
        ConfigError: an unknown protocol, too many examples, or ``out`` holds another run.
        StorageError: ``out`` cannot be written, or another process writes there.
    """
    bench = Bench.prepare(
        classifier,
        attack,
        rows,
        defenses=[defense],
        protocols=[protocol],
        num_examples=num_examples,
        seed=seed,
        control_seeds=control_seeds,
    )
    return run_bench(bench, out, encoder=encoder).summary


def run_bench(
    bench: Bench,
    out: str | Path,
    *,
    encoder: Callable[[], Encoder] | None = None,
    check: bool = True,
) -> Results:
    """Run one cell, or what is left of it, as :func:`run_attack` does.

    Args:
        check: whether every system is checked first, see ``checks.probe``.

    Raises:
        ConfigError: ``out`` holds another run.
        StorageError: ``out`` cannot be written, or another process writes there.
    """
    check_folder(out, DATABASE)
    with RecordStore(Path(out) / DATABASE, bench.manifest) as store:
        done = len(store)
        with progress("attack", bench.manifest.total, done) as advance:

            def show(event: Progress) -> None:
                record = event.record
                advance(event.done, f"{record.role} {record.protocol} {record.outcome}")

            evaluate(
                bench.systems,
                bench.attack,
                bench.examples,
                store,
                bench.manifest,
                training=bench.training,
                others=bench.others,
                on_progress=show,
                on_check=lambda system: advance(done, f"checking {system.role}"),
                check=check,
            )
        _measure(store, as_language_model(bench.backbone.frozen), encoder)
        return write_results(store, out)[0]


def _measure(
    store: RecordStore, model: LanguageModel | None, encoder: Callable[[], Encoder] | None
) -> None:
    """Score the adversaries that were not scored yet."""
    pairs = unmeasured(store, store.records(), similarity=encoder is not None)
    if pairs:
        scorers = Scorers(model, None if encoder is None else encoder())
        with progress("measure", len(pairs)) as advance:
            measure_quality(store, pairs, scorers, lambda done: advance(done, ""))

"""A request with everything that is needed to compute its cells; the same in every process.

The plan needs no weights: the base is outlined (its configuration on the meta device, its
tokenizer, the hash of its weights), and loaded when the first cell is computed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from msgspec import UNSET

from aurac.adapters import (
    Adapter,
    Family,
    check_base,
    check_fits,
    load_adapter,
    make_family,
    members_of,
)
from aurac.adapters.formats import adapters_in
from aurac.analysis.groups import check_groups
from aurac.arguments import suggestion
from aurac.curves.names import label_names
from aurac.engine import EngineOptions
from aurac.errors import CheckpointError, UsageError
from aurac.models.base import LoadedBase, load_base, resolve_base
from aurac.models.device import pick_device, pick_dtype
from aurac.models.packaged import DEFAULT_BASE
from aurac.models.tokenizer import Tokenizer, choose_tokenizer
from aurac.models.weights import quiet_transformers
from aurac.records.decisions import BEFORE, Declaration
from aurac.runs.folder import RequestedTask, RequestSettings, RunRequest, recorded_names
from aurac.runs.plan import PlannedCell, Variant, parse_ranks, plan, variants_of
from aurac.runs.settings import (
    ModelOptions,
    NamedCheckpoint,
    Overrides,
    Request,
    Settings,
    TruncationOptions,
)
from aurac.tasks.task import BuiltTask

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Session:
    """A request, and its plan.

    Attributes:
        adapters: Unique name → adapter or family.
        outline: The base without weights.
        variants: The curves to draw.
        built: Tasks with their requests; a group after its leaves.
        tokenizer: What prompts go through.
    """

    checkpoints: tuple[str, ...]
    tasks: tuple[str, ...]
    settings: Settings
    adapters: dict[str, Adapter | Family]
    outline: LoadedBase
    variants: list[Variant]
    built: list[BuiltTask]
    tokenizer: Tokenizer = field(default_factory=Tokenizer)
    _loaded: LoadedBase | None = field(default=None, repr=False)

    @property
    def options(self) -> EngineOptions:
        """Budgets of the engine, and the longest input, which is part of what a cell is."""
        return replace(self.settings.engine, max_length=self.settings.task.max_length)

    @property
    def batching(self) -> str:
        """The budgets as a run's request has them."""
        o = self.options
        return f"sequences={o.batch_size}"

    def base(self) -> LoadedBase:
        """The base in memory, loaded the first time."""
        if self._loaded is None:
            loaded = load_base(
                self.outline.name,
                dtype=self.outline.dtype,
                device=self.outline.device,
                trust_remote_code=self.settings.model.trust_remote_code,
                device_map=self.settings.model.device_map,
            )
            self._loaded = self.tokenizer.adopted_by(loaded)
        return self._loaded

    def task_of(self, task: BuiltTask, _variant: Variant) -> BuiltTask | None:
        """A task with the documents that a curve is made of; None where it has none of them."""
        return task

    def cells(self) -> list[PlannedCell]:
        """The plan, in order."""
        leaves = [task for task in self.built if not task.members]
        return plan(self.variants, leaves, self.outline)

    def request(self) -> RunRequest:
        """What a run folder records: requests with the same settings share one.

        Adapters, tasks, ranks and documents may be added.
        """
        task = self.settings.task
        return RunRequest(
            settings=RequestSettings(
                base_sha256=self.outline.sha256,
                dtype=self.outline.dtype,
                device_kind=self.outline.device.split(":")[0],
                batching=self.batching,
                tokenizer=self.tokenizer.sha256,
                seed=task.seed,
                fewshot=task.fewshot,
                num_fewshot=task.num_fewshot,
                chat_template=task.chat_template,
                split=task.split,
                **task.prompting(),
            ),
            adapters={name: adapter.sha256 for name, adapter in self.adapters.items()},
            curves=[(v.label, list(v.ranks)) for v in self.variants],
            tasks={
                task.name: RequestedTask(first_prompt=task.prompt_hashes[0], documents=task.n_docs)
                for task in self.built
            },
            primary=Declaration(pairs=[(a, b) for a, b in primary], declared=BEFORE)
            if (primary := self.settings.primary)
            else UNSET,
        )

    def fit(self, folder: Path) -> None:
        """Find the factors of rescale `fit`, each once for all processes of the run folder."""
        if any(variant.rescale == "fit" for variant in self.variants):
            from aurac.runs.fit import fitted  # it loads the engine

            settings = self.request().settings
            how = self.base, settings, self.options
            self.variants = fitted(self.variants, self.built, *how, folder / "fit")


def open_session(
    checkpoints: Sequence[str | Path],
    tasks: Sequence[str],
    settings: Settings,
    *,
    names: Mapping[str, str] | None = None,
    elsewhere: bool = False,
    lookup: Lookup | None = None,
) -> Session:
    """Read the adapters, outline the base and build the tasks.

    For checkpoints and names see `load_adapters`. Where other machines compute (`elsewhere`) the
    device need not be here. The `lookup` of a dry run does without what is not here.

    Raises:
        AuracError: Any input that cannot be used.
    """
    lookup = lookup or Lookup()
    adapters = load_adapters(checkpoints, settings, names)
    check_groups(settings.groups, list(adapters))
    variants = variants_in(adapters, settings)
    base = lookup.outline(common_base(adapters, settings.model.base), settings.model, elsewhere)
    tokenizer = _tokenizer(adapters, base, settings)
    if base.model is not None:
        members = [member for adapter in adapters.values() for member in members_of(adapter)]
        for member in members:
            check_base(member, base.name, base.sha256)
        base = tokenizer.adopted_by(base)
        for member in members:
            check_fits(member, base.model)
    outlined = base.model is None or all(p.is_meta for p in base.model.parameters())
    built, loaded = lookup.build(tasks, settings, base), None if outlined else base
    request = tuple(map(str, checkpoints)), tuple(tasks)
    return Session(*request, settings, adapters, base, variants, built, tokenizer, loaded)


def open_request(request: Request, lookup: Lookup | None = None) -> Session:
    """As `open_session`, with the names that the run folder has given to its adapters."""
    return open_session(
        request.checkpoints,
        request.tasks,
        request.settings,
        names=recorded_names(request.out),
        elsewhere=request.execution.executor == "ray",
        lookup=lookup,
    )


def _tokenizer(
    adapters: Mapping[str, Adapter | Family], base: LoadedBase, settings: Settings
) -> Tokenizer:
    """See `choose_tokenizer`; the members of a family are asked one by one."""
    members = {
        f"{name}, rank {member.rank}" if isinstance(adapter, Family) else name: member
        for name, adapter in adapters.items()
        for member in members_of(adapter)
    }
    return choose_tokenizer(
        settings.model.tokenizer,
        base,
        {name: member.source for name, member in members.items()},
        {name: rows for name, m in members.items() if (rows := m.vocabulary) is not None},
        chat_template=settings.task.chat_template,
        trust_remote_code=settings.model.trust_remote_code,
    )


class Lookup:
    """Finds what a session needs beside the adapters: all of it, or there is none."""

    def outline(self, name: str, options: ModelOptions, elsewhere: bool) -> LoadedBase:  # noqa: FBT001
        """A base as `load_base` gives it, without its weights: its model is on the meta device."""
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        base = resolve_base(name)
        device = pick_device(options.device, elsewhere=elsewhere)
        dtype = str(pick_dtype(options.dtype, device)).removeprefix("torch.")
        trust = options.trust_remote_code
        local: dict[str, Any] = {"trust_remote_code": trust, "local_files_only": True}
        try:
            with quiet_transformers(), torch.device("meta"):
                config = AutoConfig.from_pretrained(base.path, **local)
                model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust)
            with quiet_transformers():
                tokenizer = AutoTokenizer.from_pretrained(base.path, **local)
        except Exception as error:  # noqa: BLE001 - its code may need weights, which `load_base` has
            logger.debug("base %s cannot be outlined (%s)", name, error)
            how = {"dtype": options.dtype, "device": options.device}
            return load_base(name, **how, trust_remote_code=trust)
        return LoadedBase(name, base.path, base.sha256, model, tokenizer, dtype, device)

    def build(
        self, tasks: Sequence[str], settings: Settings, base: LoadedBase, *, partial: bool = False
    ) -> list[BuiltTask]:
        """The tasks with their requests, see `aurac.tasks.lm_eval.build_tasks`."""
        from aurac.tasks.lm_eval import build_tasks

        limits = {name: limit_of(name, settings) for name in tasks}
        limit = {name: limit for name, limit in limits.items() if limit is not None}
        options = replace(settings.task, limit=limit, held_out=settings.fits)
        return build_tasks(list(tasks), tokenizer=base.tokenizer, options=options, partial=partial)


def load_adapters(
    checkpoints: Sequence[str | Path], settings: Settings, names: Mapping[str, str] | None = None
) -> dict[str, Adapter | Family]:
    """Unique name → adapter; names that clash are told apart by their folder or a number.

    For checkpoints see `NamedCheckpoint`. `names`: adapters' hash → name, of those that a run
    folder has named before.

    Raises:
        CheckpointError: One that cannot be read, or the same adapter twice.
    """
    overrides: Overrides = {**settings.overrides, "base": settings.model.base}
    loaded: dict[str, tuple[str | Path, Adapter | Family]] = {}
    for checkpoint in checkpoints:
        adapter = _load(NamedCheckpoint.of(checkpoint), overrides)
        if adapter.sha256 in loaded:
            raise CheckpointError(
                f"{checkpoint} and {loaded[adapter.sha256][0]} are the same adapter",
                expected="different adapters",
                fix="name each one once",
            )
        loaded[adapter.sha256] = checkpoint, adapter
    known = {digest: name for digest, name in (names or {}).items() if digest in loaded}
    named: dict[str, Adapter | Family] = {}
    for checkpoint, adapter in loaded.values():
        taken = {*named, *known.values()}
        name, number = known.get(adapter.sha256), 2
        if name is None:
            name = adapter.name
            if name in taken and Path(checkpoint).parent.name:
                name = f"{Path(checkpoint).parent.name}/{Path(checkpoint).name}"
            while name in taken:
                name, number = f"{adapter.name}-{number}", number + 1
        named[name] = adapter
    return named


def _load(checkpoint: NamedCheckpoint, overrides: Overrides) -> Adapter | Family:
    """The adapter or the family of a checkpoint, see `load_adapter` and `make_family`."""
    paths = checkpoint.paths
    folder = Path(paths[0]).expanduser()
    inside = adapters_in(folder) if len(paths) == 1 and not checkpoint.family else ()
    if len(inside) > 1:
        paths = tuple(map(str, inside))
    elif not checkpoint.family:
        return load_adapter(paths[0], name=checkpoint.name, **overrides)
    members = [load_adapter(path, **overrides) for path in paths]
    source = folder if inside else None
    return make_family(checkpoint.name or (folder.name if inside else ""), members, source)


def common_base(adapters: Mapping[str, Adapter | Family], named: str | None) -> str:
    """The base that was named, or the one that all adapters record; a CheckpointError otherwise."""
    if named:
        return named
    recorded = {name: adapter.base for name, adapter in adapters.items() if adapter.base}
    names = sorted(set(recorded.values()))
    if len(names) > 1:
        listed = "; ".join(f"{name} on {base}" for name, base in recorded.items())
        raise CheckpointError(
            f"the adapters were trained on different bases ({listed})",
            expected="adapters of one base",
            fix="compare them in separate runs, or give --base if these names mean the same model",
        )
    if not names:
        raise CheckpointError(
            f"no base is recorded with {', '.join(adapters)}",
            expected="the base model that the adapter was trained on",
            fix=f"give --base (a hub id, a folder, or {DEFAULT_BASE})",
        )
    return names[0]


def variants_in(adapters: Mapping[str, Adapter | Family], settings: Settings) -> list[Variant]:
    """The curves to draw, one adapter after the other."""
    cuts, usual = settings.truncations, settings.truncation
    for name in cuts.keys() - adapters.keys():
        raise UsageError(
            f"truncations of {str(name)!r}",
            expected=f"one of {', '.join(adapters)}",
            fix=suggestion(Path(name).name, adapters),
        )
    return [v for n, a in adapters.items() for v in variants_for(n, a, cuts.get(n, usual))]


def variants_for(name: str, adapter: Adapter | Family, options: TruncationOptions) -> list[Variant]:
    """The curves of one adapter, see `parse_ranks` and `variants_of`."""
    ranks = parse_ranks(options.ranks, adapter)
    variants = variants_of(name, adapter, ranks, tuple(options.basis), options.rescale)
    shown = [v for v in variants if options.published or v.role != "published"]
    called = label_names(v.label for v in shown)
    return [replace(v, called=called[v.label]) for v in shown]


def limit_of(task: str, settings: Settings) -> float | None:
    """How many documents of a task, or which share of them; None for all.

    Without a limit: a sample of a bundled task, all of another.
    """
    from aurac.tasks import BUNDLED, QUICK_DOCUMENTS

    limit = settings.task.limit_of(task)
    if limit is None:
        return QUICK_DOCUMENTS if task in BUNDLED and task not in settings.task.data else None
    return limit or None

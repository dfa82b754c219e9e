"""The folder of a training run: its recipe, its log, its last two states, its release files, its checks."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from onestep.checkpoint import load_state, replace_file, save_state
from onestep.core.errors import InputError, UsageError

STATES_KEPT = 2


FREE = ("check", "card", "data.workers", "data.cache", "train.save_every", "train.log_every")
"""Settings that may change when a run continues, because the training does not depend on them."""


def _difference(old: Any, new: Any, where: str = "") -> str | None:
    """The first changed setting that matters, in words; one that an older version did not know is fine."""
    if where in FREE:
        return None
    if isinstance(old, dict) and isinstance(new, dict):
        then, now = cast("dict[str, Any]", old), cast("dict[str, Any]", new)
        inside = (_difference(then[name], now.get(name), f"{where}.{name}".lstrip(".")) for name in then)
        return next((found for found in inside if found), None)
    return None if old == new else f"{where} was {json.dumps(old)}, now {json.dumps(new)}"


class RunFolder:
    """Everything a run writes. Files appear whole or not at all; only rank 0 writes."""

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        """Open or make the folder.

        Args:
            path: The folder.
            writes: False for all ranks but the first: every write becomes a no-op.

        Raises:
            InputError: The folder cannot be made.
        """
        self.path, self.writes = path, writes
        self._board: Any = None
        if writes:
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(
                    f"{path}: cannot be made ({error.strerror}); choose another --run folder"
                ) from error

    def settle(self, recipe: Mapping[str, Any]) -> None:
        """Write recipe.json, unless the folder belongs to another recipe.

        Args:
            recipe: The resolved recipe, as JSON values.

        Raises:
            UsageError: It does; removing its recipe.json says that this is meant.
        """
        file = self.path / "recipe.json"
        if file.is_file():
            try:
                changed = _difference(json.loads(file.read_text("utf-8")), json.loads(json.dumps(recipe)))
            except ValueError as error:
                raise UsageError(
                    f"{file}: cannot be read ({error}); remove it to continue the run"
                ) from error
            if changed:
                raise UsageError(
                    f"{self.path}: belongs to another recipe ({changed});"
                    " choose another --run folder, or remove its recipe.json to continue with the new one"
                )
        self.write_json("recipe.json", recipe)

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a JSON file of the run."""
        if self.writes:
            text = json.dumps(values, indent=1) + "\n"
            replace_file(self.path / name, lambda temporary: temporary.write_text(text, "utf-8"))

    def states(self) -> list[Path]:
        """State files, oldest first."""
        return sorted(self.path.glob("state-*.pt"))

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write the state of a step and forget all but the last two."""
        if self.writes:
            save_state(self.path / f"state-{step:08d}.pt", state)
            for old in self.states()[:-STATES_KEPT]:
                old.unlink(missing_ok=True)

    def resume(self) -> dict[str, Any] | None:
        """The newest state, or None; the log is cut back to it."""
        states = self.states()
        if not states:
            return None
        state = load_state(states[-1])
        self._cut_log(int(state["step"]))
        return state

    def release(self, step: int) -> Path:
        """Where the release file of a step lies."""
        return self.path / f"release-{step:08d}.safetensors"

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append a line to log.jsonl and the scalars to TensorBoard."""
        if self.writes:
            line = {"step": step, "time": round(time.time(), 1), **values}
            with (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            self.scalars(step, values)

    def open_board(self) -> bool:
        """Start TensorBoard's event file; False when tensorboard is not installed.

        What a run that was killed had written after its last state disappears from view.
        """
        if self.writes and self._board is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                return False
            states = self.states()
            start = int(states[-1].stem.partition("-")[2]) + 1 if states else None
            self._board = SummaryWriter(str(self.path / "tensorboard"), purge_step=start)
        return True

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers for TensorBoard."""
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def picture(self, name: str, step: int, image: Tensor) -> None:
        """A picture (3, H, W) in [0, 1] for TensorBoard."""
        if self._board is not None:
            self._board.add_image(name, image, step)

    def close(self) -> None:
        """Flush TensorBoard."""
        if self._board is not None:
            self._board.close()
            self._board = None

    def _cut_log(self, step: int) -> None:
        file = self.path / "log.jsonl"
        if self.writes and file.is_file():
            lines = file.read_text("utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
            if len(kept) < len(lines):
                temporary = file.with_name(".log.jsonl.part")
                temporary.write_text("".join(kept), "utf-8")
                os.replace(temporary, file)

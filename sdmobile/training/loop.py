"""One resumable training loop for every stage: Accelerate, flat-then-linear learning rate, EMA, a JSON-lines log."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel

from sdmobile.basics.files import whole_file, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sdmobile.training.config import Stage

    Progress = Callable[[int, int, float], None]


def learning_rate_factor(step: int, stage: Stage) -> float:
    """Returns the factor on the learning rate: linear warm-up, flat, linear decay to zero.

    Args:
        step: steps done so far.
        stage: its length, warm-up and share of decay.
    """
    rise = min(1.0, (step + 1) / max(1, stage.warmup))
    fall = min(1.0, (stage.steps - step) / max(1.0, stage.steps * stage.decay_share))
    return max(0.0, min(rise, fall))


def usual_precision() -> str:
    """Returns Accelerate's `mixed_precision` that is fastest here: "bf16" where the processor multiplies it, else "no".

    A CPU without such instructions emulates them: measured 2.7 times slower than float32 on one with AVX-512 but
    neither `amx_bf16` nor `avx512_bf16`.
    """
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") else "no"


class Trainer:
    """Trains one module to the end of its stage, saving its state so that a stopped run goes on where it was.

    Args:
        module: the module whose parameters are trained.
        groups: optimizer groups, each with `params` and `lr`.
        stage: steps, batch size and schedule.
        folder: where the state is kept.
        ema: decay of the exponential moving average of the weights.
        beside: modules and optimizers that are trained beside it by `loss_at`; their state is saved and loaded too.
        betas: of AdamW.

    Forwards run in bfloat16 where the processor has it and PyTorch's autocast thinks it safe (`usual_precision`);
    Accelerate allows one precision per process. Under `accelerate launch` several processes train one module; each
    computes its share of a batch (`share`).
    """

    def __init__(
        self,
        module: torch.nn.Module,
        groups: list[dict],
        stage: Stage,
        folder: Path,
        ema: float,
        beside: Sequence[Any] = (),
        betas: tuple[float, float] = (0.9, 0.99),
    ) -> None:
        self.accelerator = Accelerator(mixed_precision=usual_precision(), cpu=not torch.cuda.is_available())
        optimizer = torch.optim.AdamW(groups, betas=betas, weight_decay=1e-4)
        self.module, self.optimizer = self.accelerator.prepare(module, optimizer)
        self.beside = [self.accelerator.prepare(one) for one in beside]
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.stage, self.folder, self.step = stage, folder, 0
        self.ema = EMAModel(self.parameters(), decay=ema, use_ema_warmup=True, power=0.75)
        self.ema.to(self.accelerator.device)
        self._resume()

    def parameters(self) -> list[torch.nn.Parameter]:
        """Returns the trained parameters in a fixed order."""
        return list(self.accelerator.unwrap_model(self.module).parameters())

    def share(self, rows: torch.Tensor) -> torch.Tensor:
        """Returns the rows of a batch that this process computes, all of them where it is the only one."""
        return rows[self.accelerator.process_index :: self.accelerator.num_processes].to(self.accelerator.device)

    def _resume(self) -> None:
        meta = self.folder / "progress.json"
        if not meta.exists():
            return
        self.accelerator.load_state(str(self.folder / "state"))
        self.ema.load_state_dict(torch.load(self.folder / "ema.pt", weights_only=True))
        self.ema.to(self.accelerator.device)
        self.step = json.loads(meta.read_text())["step"]

    def save(self) -> None:
        """Writes weights, optimizer, random state and moving average; the step counter last."""
        self.accelerator.save_state(str(self.folder / "state"))
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return
        with whole_file(self.folder / "ema.pt") as partial:
            torch.save(self.ema.state_dict(), partial)
        write_json(self.folder / "progress.json", {"step": self.step})

    def run(self, loss_at: Callable[[int], torch.Tensor], log: Path, save_every: int, progress: Progress) -> None:
        """Trains until the stage's last step.

        Args:
            loss_at: computes the loss of a step; it draws its batch from the step number, so that a resumed run
                sees the data that an uninterrupted one would.
            log: JSON-lines file; one line per 25 steps with step, loss (their mean), learning rate and seconds.
            save_every: steps between two saves.
            progress: called with step, steps and loss.
        """
        losses: list[float] = []
        started = time.perf_counter()
        while self.step < self.stage.steps:
            factor = learning_rate_factor(self.step, self.stage)
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * factor
            loss = loss_at(self.step)
            self.accelerator.backward(loss)
            self.accelerator.clip_grad_norm_(self.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.ema.step(self.parameters())
            self.step += 1
            losses.append(float(self.accelerator.reduce(loss.detach(), "mean")))  # pyright: ignore[reportArgumentType]
            if self.step % 25 == 0 or self.step == self.stage.steps:
                mean = sum(losses) / len(losses)
                losses.clear()
                seconds = round(time.perf_counter() - started, 1)
                row = {"step": self.step, "loss": round(mean, 6), "factor": round(factor, 4), "seconds": seconds}
                if self.accelerator.is_main_process:
                    with log.open("a") as stream:
                        stream.write(json.dumps(row) + "\n")
                    progress(self.step, self.stage.steps, mean)
            if self.step % save_every == 0 or self.step == self.stage.steps:
                self.save()

    def averaged(self) -> torch.nn.Module:
        """Returns the module with the moving average of its weights copied in, in evaluation mode."""
        module = self.accelerator.unwrap_model(self.module)
        self.ema.copy_to(module.parameters())
        return module.eval()

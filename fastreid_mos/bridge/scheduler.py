"""The Brownian bridge between a source and a target image, as a diffusers scheduler."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor

from .multistep import target_integral
from .spacing import SPACINGS, bbdm_timesteps, spaced_timesteps

OBJECTIVES = ("grad", "noise", "ysubx")
STEP_RULES = ("bbdm", "dbim")
MT_TYPES = ("linear", "sin")
MAX_ORDER = 3
# Growth of m_t from step to step in BBDM's "sin" course.
_GROWTH = 1.0075

Generators = torch.Generator | list[torch.Generator] | None


@dataclass
class BrownianBridgeSchedulerOutput(BaseOutput):
    """What a step gives.

    Args:
        prev_sample: ``[B, C, H, W]``, x at the next (earlier) timestep; after the last timestep the sample itself.
        pred_original_sample: ``[B, C, H, W]``, the target that the model predicts from this step, clamped if
            ``clip_sample``.
    """

    prev_sample: torch.Tensor
    pred_original_sample: torch.Tensor


class BrownianBridgeScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    r"""Brownian-bridge diffusion from a source y to a target x_0 (BBDM, CVPR 2023; the bridge of MOS's CDGF).

    At training timestep t, with m_t rising from ``m_min`` to ``m_max`` and d_t = 2 s (m_t - m_t^2) (BBDM, equation 4),

        x_t = (1 - m_t) x_0 + m_t y + sqrt(d_t) e,    e ~ N(0, I).

    Sampling starts at x = y. Two rules lead from t to an earlier timestep n, both with the same trained network:

    **bbdm**, BBDM's equation 13 with sigma scaled by eta. With r = x_t - (1 - m_t) x0 - m_t y and
    s2 = d_n (d_t - d_n (1 - m_t)^2 / (1 - m_n)^2) / d_t,

        x_n = (1 - m_n) x0 + m_n y + sqrt((d_n - s2) / d_t) r + eta sqrt(s2) z.

    Given x_0, r / sqrt(d_t) is standard normal, so the variance of x_n is d_n - s2 + eta^2 s2: the bridge's own only
    for eta = 1. For smaller eta it is too small; that is how BBDM's released code works, and it is kept for its sake.

    **dbim**, after DBIM (arXiv 2405.15885). Any split of d_n into a kept part and a fresh part has the right variance:

        x_n = (1 - m_n) x0 + m_n y + sqrt((d_n - w2) / d_t) r + sqrt(w2) z,    0 <= w2 <= d_n.

    Here w2 = eta^2 s2: eta = 1 is the Markov chain of **bbdm** and eta = 0 draws nothing. At the first step r carries
    no noise, as x is y itself, so that all of d_n must be fresh: w2 = d_n ("booting noise").
    With z_t = (x_t - m_t y) / (1 - m_t) = x_0 + sigma_t e and sigma_t = sqrt(d_t) / (1 - m_t), the step with w2 = 0
    reads z_n = (sigma_n / sigma_t) z_t + (1 - sigma_n / sigma_t) x0. It solves d(z / sigma) = x0 d(1 / sigma) exactly
    for an x0 that stays the same from t to n. ``solver_order`` 2 and 3 let x0 vary, as a polynomial in log sigma
    through the last two or three predictions (see :mod:`.multistep`), at no further call of the network. They are for
    eta = 0 only: fresh noise makes the predictions rough, and a polynomial through them carries it on many times over.

    Args:
        num_train_timesteps: T, number of training timesteps.
        mt_type: course of m_t, ``linear`` or ``sin`` (BBDM's name of a geometric one; ``sine`` is understood).
        max_var: s, scale of the variance.
        objective: what the network predicts: ``grad`` m_t (y - x_0) + sqrt(d_t) e, ``noise`` e, or ``ysubx`` y - x_0.
        eta: 0..1, share of the noise that is drawn anew at each step.
        clip_sample: clamp the predicted target to -1..1.
        step_rule: ``bbdm`` or ``dbim``.
        solver_order: 1, or with the dbim rule and eta 0 also 2 or 3.
        timestep_spacing: of the timesteps that are visited; see :func:`.spacing.spaced_timesteps`. The bbdm rule has
            its own linear one.
        m_min, m_max: ends of m_t; ``m_min`` counts for the linear course.

    Raises:
        ValueError: an argument out of range or an unknown name.
    """

    order = 1  # calls of the network a step, as diffusers counts them
    config: Any  # diffusers' FrozenDict, whose entries are attributes too

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        mt_type: str = "linear",
        max_var: float = 1.0,
        objective: str = "grad",
        eta: float = 1.0,
        clip_sample: bool = True,
        step_rule: str = "bbdm",
        solver_order: int = 1,
        timestep_spacing: str = "linear",
        m_min: float = 0.001,
        m_max: float = 0.999,
    ) -> None:
        _one_of("mt_type", mt_type, (*MT_TYPES, "sine"))
        _one_of("objective", objective, OBJECTIVES)
        _one_of("step_rule", step_rule, STEP_RULES)
        _one_of("timestep_spacing", timestep_spacing, SPACINGS)
        if num_train_timesteps < 1:
            raise ValueError(f"num_train_timesteps: at least 1, got {num_train_timesteps}")
        if not 0 <= eta <= 1:
            raise ValueError(f"eta: 0..1, got {eta}")
        if not 0 < max_var < math.inf:
            raise ValueError(f"max_var: above 0 and finite, got {max_var}")
        if not 0 < m_min < m_max < 1:
            raise ValueError(f"m_min and m_max: 0 < m_min < m_max < 1 is needed, got {m_min} and {m_max}")
        if solver_order not in range(1, MAX_ORDER + 1) or (solver_order > 1 and (step_rule != "dbim" or eta > 0)):
            raise ValueError(
                f"solver_order: 1, 2 or 3, and above 1 for step_rule 'dbim' with eta 0 only, got {solver_order} for "
                f"{step_rule!r} with eta {eta:g}"
            )
        if mt_type == "linear":
            m = np.linspace(m_min, m_max, num_train_timesteps)
        else:
            m = _GROWTH ** (np.linspace(0, num_train_timesteps, num_train_timesteps) - num_train_timesteps)
            m[-1] = m_max
        variance = 2 * max_var * (m - m**2)
        before, variance_before = np.append(0.0, m[:-1]), np.append(0.0, variance[:-1])
        from_before = variance - variance_before * ((1 - m) / (1 - before)) ** 2
        self.m_t = torch.from_numpy(m).float()
        self.variance_t = torch.from_numpy(variance).float()
        # Of one step of the chain (BBDM, equation 7), and of its reverse given both ends (equation 13).
        self.variance_t_tminus = torch.from_numpy(from_before).float()
        self.posterior_variance_t = torch.from_numpy(from_before * variance_before / variance).float()
        # Steps are computed from the arrays that everybody sees, in double precision; the row after the last stands for
        # the target itself, t = -1.
        self._m = np.append(self.m_t.double().numpy(), 0.0)
        self._d = np.append(self.variance_t.double().numpy(), 0.0)

        self.init_noise_sigma = 1.0
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(num_train_timesteps - 1, -1, -1)
        self._place: int | None = None
        self._history: list[tuple[float, torch.Tensor]] = []

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)

    def scale_model_input(self, sample: torch.Tensor, timestep: Any = None) -> torch.Tensor:
        """The sample as it is: the bridge's network takes x_t unscaled."""
        return sample

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Choose the timesteps of the next sample, and forget those of the last one.

        Args:
            num_inference_steps: S, 1..T: exactly so many calls of the network.
            device: where ``timesteps`` goes.
            timesteps: the timesteps themselves instead, strictly decreasing.

        Raises:
            ValueError: S out of range, timesteps that do not decrease or are none of the training's, or neither given.
        """
        total = len(self)
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError("set_timesteps: give num_inference_steps or timesteps, one of them")
        if timesteps is not None:
            given = np.asarray(timesteps, dtype=np.float64)
            inside = given.ndim == 1 and len(given) and 0 <= given.min() and given.max() < total
            if not inside or (given % 1).any() or (np.diff(given) >= 0).any():
                shown = ", ".join(str(step) for step in list(timesteps)[:8])
                raise ValueError(f"timesteps: strictly decreasing, {total - 1} to 0, got {shown or 'none'} ...")
            steps = given.astype(np.int64)
        else:
            assert num_inference_steps is not None
            # Infinity and NaN have no remainder that is 0.
            if isinstance(num_inference_steps, (bool, str)) or num_inference_steps % 1 != 0:
                raise ValueError(f"num_inference_steps: a whole number, got {num_inference_steps!r}")
            if not 1 <= num_inference_steps <= total:
                raise ValueError(
                    f"num_inference_steps: 1 to {total} (the number of training timesteps), got {num_inference_steps}"
                )
            spacing = self.config.timestep_spacing
            if self.config.step_rule == "bbdm" and spacing == "linear":
                steps = bbdm_timesteps(total, int(num_inference_steps))
            else:
                steps = spaced_timesteps(spacing, np.log(self._sigma(np.arange(total))), int(num_inference_steps))
        self.num_inference_steps = len(steps)
        self.timesteps = torch.from_numpy(steps).to(device)
        self._steps = steps
        self._place = None
        self._history = []

    # ------------------------------------------------------------------ training

    def add_noise(
        self, x0: torch.Tensor, source: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """x_t = (1 - m_t) x_0 + m_t y + sqrt(d_t) e (BBDM, equation 3).

        Args:
            x0, source, noise: ``[B, ...]``, any floating type.
            timesteps: ``[B]`` or one for all, 0..T - 1.

        Returns:
            ``[B, ...]`` of the type of ``x0``.

        Raises:
            ValueError: a timestep out of range.
        """
        m, d = self._at(timesteps, x0)
        return ((1 - m) * _wide(x0) + m * _wide(source) + d.sqrt() * _wide(noise)).to(x0.dtype)

    def get_target(
        self, x0: torch.Tensor, source: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """What the network is to predict at :meth:`add_noise`'s x_t, by ``objective``; shapes as there."""
        if self.config.objective == "noise":
            return noise
        if self.config.objective == "ysubx":
            return source - x0
        m, d = self._at(timesteps, x0)
        return (m * (_wide(source) - _wide(x0)) + d.sqrt() * _wide(noise)).to(x0.dtype)

    def predict_x0(
        self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, source: torch.Tensor
    ) -> torch.Tensor:
        """The target that a prediction of the network means, not clamped; shapes as in :meth:`add_noise`."""
        if self.config.objective == "grad":
            return sample - model_output
        if self.config.objective == "ysubx":
            return source - model_output
        m, d = self._at(timestep, sample)
        return ((_wide(sample) - m * _wide(source) - d.sqrt() * _wide(model_output)) / (1 - m)).to(sample.dtype)

    # ------------------------------------------------------------------ sampling

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int | torch.Tensor,
        sample: torch.Tensor,
        source: torch.Tensor,
        generator: Generators = None,
        variance_noise: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> BrownianBridgeSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """From a timestep to the next of ``timesteps``; from the last one to the target.

        Args:
            model_output: ``[B, C, H, W]``, the network's output by ``objective``.
            timestep: one of ``timesteps``, or for order 1 ``[B]`` of them, one for each row.
            sample: ``[B, C, H, W]``, x at this timestep; at the first one the source.
            source: ``[B, C, H, W]``, y.
            generator: of the noise; a list has one for each row.
            variance_noise: ``[B, C, H, W]``, the noise z itself instead.
            return_dict: False gives a tuple.

        Returns:
            :class:`BrownianBridgeSchedulerOutput`, of the sample's type; computed in float32 at least.

        Raises:
            ValueError: :meth:`set_timesteps` was not called, or the timestep is none of ``timesteps``.
        """
        if self.num_inference_steps is None:
            raise ValueError("step: call set_timesteps(number of steps) first")
        dtype = sample.dtype
        sample, source, model_output = _wide(sample), _wide(source), _wide(model_output)
        place = self._places(timestep)
        t = self._steps[place]
        n = np.where(place + 1 < len(self._steps), self._steps[np.minimum(place + 1, len(self._steps) - 1)], -1)
        x0 = self.predict_x0(model_output, t, sample, source)
        if self.config.clip_sample:
            x0 = x0.clamp(-1, 1)

        # In the sample's own precision and in BBDM's order of operations: in float32 its samples come out to the bit.
        (m_t, d_t), (m_n, d_n) = self._coefficients(t, sample), self._coefficients(n, sample)
        chain = ((d_t - d_n * (1 - m_t) ** 2 / (1 - m_n) ** 2) * d_n / d_t).clamp(min=0)
        if self.config.step_rule == "bbdm":
            kept, fresh = (d_n - chain).clamp(min=0), self.config.eta**2 * chain
        else:
            first = torch.from_numpy(np.asarray(place == 0)).to(chain.device).view(chain.shape)
            fresh = torch.where(first, d_n, self.config.eta**2 * chain)
            kept = (d_n - fresh).clamp(min=0)
        rest = sample - (1 - m_t) * x0 - m_t * source
        result = (1 - m_n) * x0 + m_n * source + (kept / d_t).sqrt() * rest
        if self.config.solver_order > 1:
            result = result + self._curvature(x0, int(t), int(n), bool(place == 0))
        if bool((fresh > 0).any()):
            if variance_noise is None:
                variance_noise = randn_tensor(
                    sample.shape, generator=generator, device=sample.device, dtype=sample.dtype
                )
            result = result + fresh.sqrt() * variance_noise.to(device=sample.device, dtype=sample.dtype)
        result, x0 = result.to(dtype), x0.to(dtype)
        if not return_dict:
            return result, x0
        return BrownianBridgeSchedulerOutput(prev_sample=result, pred_original_sample=x0)

    def _curvature(self, x0: torch.Tensor, t: int, n: int, first: bool) -> Any:
        """What the change of x0 between t and n adds to x_n; 0 without earlier predictions."""
        if first:
            self._history = []
        self._history = [(float(-np.log(self._sigma(t))), x0), *self._history][: self.config.solver_order]
        # At the first step nothing of z_t is kept, and after the last the integral in log sigma has no end.
        if first or n < 0:
            return 0.0
        return (1 - self._m[n]) * target_integral(self._history, float(-np.log(self._sigma(n))))

    def _sigma(self, t: Any) -> Any:
        """sqrt(d_t) / (1 - m_t), the noise-to-signal ratio once the source is taken off."""
        return np.sqrt(self._d[t]) / (1 - self._m[t])

    def _places(self, timestep: Any) -> Any:
        """Where in ``timesteps`` a timestep stands: a number, or one for each row of a batch."""
        wanted = np.asarray(timestep.detach().cpu() if isinstance(timestep, torch.Tensor) else timestep)
        if wanted.ndim == 0 or wanted.size == 1:
            value = int(wanted.reshape(()))
            # BBDM's grid may hold a timestep twice: steps taken in order find the right one of the two.
            expected = self._place
            if expected is None or expected >= len(self._steps) or self._steps[expected] != value:
                found = np.flatnonzero(self._steps == value)
                if not len(found):
                    raise ValueError(f"timestep {value} is none of the {len(self._steps)} of set_timesteps")
                expected = int(found[0])
            self._place = expected + 1
            return np.asarray(expected)
        if self.config.solver_order > 1:
            raise ValueError("step: a timestep for each row needs solver_order 1")
        places = []
        for value in wanted.tolist():
            found = np.flatnonzero(self._steps == value)
            if not len(found):
                raise ValueError(f"timestep {value} is none of the {len(self._steps)} of set_timesteps")
            places.append(int(found[0]))
        return np.asarray(places)

    def _at(self, timesteps: Any, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """m_t and d_t of training timesteps; see :meth:`_coefficients`."""
        steps = np.asarray(timesteps.detach().cpu() if isinstance(timesteps, torch.Tensor) else timesteps)
        if steps.size and not (0 <= steps.min() and steps.max() < len(self)):
            raise ValueError(f"timesteps: 0 to {len(self) - 1}, got {steps.min()} to {steps.max()}")
        return self._coefficients(steps, like)

    def _coefficients(self, steps: Any, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """m and d in float32 at least: a number (on the host), or one a row, shaped and placed for ``like``."""
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        rows = np.asarray(steps, np.int64)
        m, d = (torch.from_numpy(np.asarray(values[rows])).to(dtype) for values in (self._m, self._d))
        if rows.ndim:
            shape = (-1, *(1,) * (like.ndim - 1))
            m, d = m.to(like.device).view(shape), d.to(like.device).view(shape)
        return m, d


def _wide(values: torch.Tensor) -> torch.Tensor:
    """Half precision to single: coefficients near the ends are small differences of numbers near 1."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{name}: one of {', '.join(known)}, got {value!r}")

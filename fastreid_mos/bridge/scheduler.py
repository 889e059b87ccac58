"""The Brownian bridge between a source and a target image, as a diffusers scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor

from .solver import SPACINGS, bbdm_timesteps, spaced_timesteps, target_integral

# Growth of m_t from step to step in BBDM's "sin" course.
_GROWTH = 1.0075

Generators = torch.Generator | list[torch.Generator] | None


@dataclass
class BrownianBridgeSchedulerOutput(BaseOutput):  # type: ignore[misc]
    """Output of :meth:`BrownianBridgeScheduler.step`.

    Args:
        prev_sample: ``[B, C, H, W]``, x at the next (earlier) timestep; after the last timestep the generated image.
        pred_original_sample: ``[B, C, H, W]``, the target x_0 as predicted at this step, clamped if ``clip_sample``.
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
    for eta = 1. For smaller eta it is too small, as in BBDM's released code.

    **dbim**, after DBIM (arXiv 2405.15885). Any split of d_n into a kept part and a fresh part has the right variance:

        x_n = (1 - m_n) x0 + m_n y + sqrt((d_n - w2) / d_t) r + sqrt(w2) z,    0 <= w2 <= d_n.

    Here w2 = eta^2 s2: eta = 1 is the Markov chain of **bbdm** and eta = 0 draws nothing. At the first step r holds
    no noise, because x is y itself, so that all of d_n must be fresh: w2 = d_n ("booting noise").
    With z_t = (x_t - m_t y) / (1 - m_t) = x_0 + sigma_t e and sigma_t = sqrt(d_t) / (1 - m_t), the step with w2 = 0
    reads z_n = (sigma_n / sigma_t) z_t + (1 - sigma_n / sigma_t) x0. It solves d(z / sigma) = x0 d(1 / sigma) exactly
    for an x0 that is constant from t to n. ``solver_order`` 2 and 3 let x0 vary, as a polynomial in log sigma through
    the last two or three predictions (:func:`.solver.target_integral`), without another call of the network. They need
    eta = 0: fresh noise makes the predictions rough, and a polynomial through them would amplify it.

    Args:
        num_train_timesteps: T, number of training timesteps.
        mt_type: course of m_t, ``linear`` or ``sin`` (BBDM's name of a geometric one).
        max_var: s, scale of the variance.
        objective: what the network predicts: ``grad`` m_t (y - x_0) + sqrt(d_t) e, ``noise`` e, or ``ysubx`` y - x_0.
        eta: 0..1, share of fresh noise at each step.
        clip_sample: clamp the predicted target to -1..1.
        step_rule: ``bbdm`` or ``dbim``.
        solver_order: 1, or with the dbim rule and eta 0 also 2 or 3.
        timestep_spacing: of the timesteps that are visited, all from T - 1 down. ``linspace``: even, to 0; with the
            bbdm rule BBDM's own such grid. ``leading``: even strides of T // S up from 0, and T - 1. ``trailing``:
            even, with the last stride left to the final jump to the target, so that no call is spent at timestep 0,
            where there is no noise left. ``quadratic``: as trailing, with strides that shrink towards the target.
            ``variance``: even in sigma^(1/7), to 0. (``linear``, an earlier spelling, becomes ``linspace``.)
        m_min, m_max: ends of m_t; the ``sin`` course does not use ``m_min``.

    Raises:
        ValueError: an argument out of range or an unknown name.
    """

    order = 1  # calls of the network a step, as diffusers counts them
    config: Any  # diffusers' FrozenDict, whose entries are attributes too

    @register_to_config  # type: ignore[untyped-decorator]
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
        timestep_spacing: str = "linspace",
        m_min: float = 0.001,
        m_max: float = 0.999,
    ) -> None:
        # Earlier configs, and the key BRIDGE.SAMPLE.SPACING, have other spellings.
        mt_type = {"sine": "sin"}.get(mt_type, mt_type)
        timestep_spacing = {"linear": "linspace"}.get(timestep_spacing, timestep_spacing)
        self.register_to_config(mt_type=mt_type, timestep_spacing=timestep_spacing)
        for name, known in (
            ("mt_type", ("linear", "sin")),
            ("objective", ("grad", "noise", "ysubx")),
            ("step_rule", ("bbdm", "dbim")),
            ("timestep_spacing", SPACINGS),
            ("solver_order", (1, 2, 3)),
        ):
            if self.config[name] not in known:
                raise ValueError(f"{name}: one of {', '.join(map(str, known))}, got {self.config[name]!r}")
        if num_train_timesteps < 1:
            raise ValueError(f"num_train_timesteps: at least 1, got {num_train_timesteps}")
        if not max_var > 0:
            raise ValueError(f"max_var: above 0, got {max_var}")
        if not 0 < m_min < m_max < 1:
            raise ValueError(f"m_min and m_max: 0 < m_min < m_max < 1 is needed, got {m_min} and {m_max}")
        self.check_eta(eta)

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
        # The noise-to-signal ratio once the source is taken off, from the values that the steps use.
        self._log_sigma = np.log(np.sqrt(self.variance_t.double().numpy()) / (1 - self.m_t.double().numpy()))

        self.init_noise_sigma = 1.0
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(num_train_timesteps - 1, -1, -1)
        self._step_index: int | None = None
        self._begin_index: int | None = None

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)

    @property
    def step_index(self) -> int | None:
        """Index in ``timesteps`` of the next step; None before the first one."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Index in ``timesteps`` of the first step, if set by :meth:`set_begin_index`."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Tell the scheduler where the loop begins, after :meth:`set_timesteps`; no step then waits for a device."""
        self._begin_index = begin_index

    def check_eta(self, eta: float) -> None:
        """Refuse, by ValueError, an eta outside 0..1, or one above 0 or a rule other than dbim with a higher order."""
        if not 0 <= eta <= 1:
            raise ValueError(f"eta: 0 to 1, got {eta}")
        order, rule = self.config.solver_order, self.config.step_rule
        if order > 1 and (rule != "dbim" or eta > 0):
            raise ValueError(f"solver_order: {order} needs step_rule 'dbim' and eta 0, got {rule!r} and eta {eta:g}")

    def scale_model_input(self, sample: torch.Tensor, timestep: Any = None) -> torch.Tensor:
        """The sample as it is: the bridge's network takes x_t unscaled."""
        return sample

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Choose the timesteps of the next sampling loop, and put them on ``device``.

        Args:
            num_inference_steps: S, 1..T: exactly so many calls of the network.
            timesteps: the timesteps themselves instead, strictly decreasing.

        Raises:
            ValueError: S out of range, or timesteps that do not decrease or are not training timesteps.
        """
        total, spacing = len(self), self.config.timestep_spacing
        if timesteps is not None:
            steps = np.asarray(timesteps).astype(np.int64)
            if not steps.size or (np.diff(steps) >= 0).any() or steps[0] >= total or steps[-1] < 0:
                raise ValueError(f"timesteps: strictly decreasing from at most {total - 1} to 0, got {timesteps}")
        elif num_inference_steps is None or num_inference_steps not in range(1, total + 1):
            raise ValueError(f"num_inference_steps: a whole number, 1 to {total}, got {num_inference_steps!r}")
        elif self.config.step_rule == "bbdm" and spacing == "linspace":
            steps = bbdm_timesteps(total, num_inference_steps)
        else:
            steps = spaced_timesteps(spacing, self._log_sigma, num_inference_steps)
        self.num_inference_steps = len(steps)
        self.timesteps = torch.from_numpy(steps).to(device)
        self._grid = torch.from_numpy(np.append(steps, -1))  # stays on the host; -1 is the target
        self._step_index = self._begin_index = None
        self._history: list[tuple[float, torch.Tensor]] = []

    def add_noise(
        self, x0: torch.Tensor, source: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """x_t = (1 - m_t) x_0 + m_t y + sqrt(d_t) e (BBDM, equation 3), of the type of ``x0``.

        ``x0``, ``source`` and ``noise`` are ``[B, ...]``; ``timesteps`` is ``[B]`` or one for all, 0..T - 1.
        """
        m, d = self._coefficients(timesteps, x0)
        return ((1 - m) * _wide(x0) + m * _wide(source) + d.sqrt() * _wide(noise)).to(x0.dtype)

    def get_target(
        self, x0: torch.Tensor, source: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """What the network is to predict at :meth:`add_noise`'s x_t, by ``objective``; shapes as there."""
        if self.config.objective == "noise":
            return noise
        if self.config.objective == "ysubx":
            return source - x0
        m, d = self._coefficients(timesteps, x0)
        return (m * (_wide(source) - _wide(x0)) + d.sqrt() * _wide(noise)).to(x0.dtype)

    def predict_x0(
        self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, source: torch.Tensor
    ) -> torch.Tensor:
        """The target that the network's output stands for, not clamped; shapes as in :meth:`add_noise`."""
        if self.config.objective == "grad":
            return sample - model_output
        if self.config.objective == "ysubx":
            return source - model_output
        m, d = self._coefficients(timestep, sample)
        return ((_wide(sample) - m * _wide(source) - d.sqrt() * _wide(model_output)) / (1 - m)).to(sample.dtype)

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int | torch.Tensor,
        sample: torch.Tensor,
        source: torch.Tensor,
        generator: Generators = None,
        variance_noise: torch.Tensor | None = None,
        return_dict: bool = True,
        eta: float | None = None,
    ) -> BrownianBridgeSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """From a timestep t to the next one of ``timesteps``, n; from the last one to the target.

        | here | meaning | BBDM | DBIM |
        | --- | --- | --- | --- |
        | ``sample``, ``source`` | x at t, and where the bridge starts | x_t, y | x_t, x_T |
        | ``x0`` | predicted target | x_0 | x^_0 |
        | ``m_t``, ``1 - m_t`` | weights of source and target | m_t, 1 - m_t | a_t, b_t |
        | ``d_t`` | variance of the bridge at t | delta_t | c_t^2 |
        | ``s2`` | variance of x_n given x_t and x_0 | delta~_t | rho^2 of the Markov chain |
        | ``fresh`` | variance of the noise drawn now | eta^2 delta~_t | rho_n^2 |
        | ``kept`` | variance of the noise kept from x_t | delta_n - delta~_t | c_n^2 - rho_n^2 |
        | ``rest`` | noise in x_t | x_t - (1 - m_t) x_0 - m_t y | c_t e^ |

        Args:
            model_output, sample, source: ``[B, C, H, W]``, the network's output by ``objective``, x at this timestep
                (at the first one the source), and y.
            timestep: one of ``timesteps``; with ``solver_order`` 1 also ``[B]`` of them, one for each row. On an
                accelerator a single one is not read back, except at the first step without :meth:`set_begin_index`:
                steps are taken in the order of ``timesteps``.
            generator: of the noise; a list has one for each row.
            variance_noise: ``[B, C, H, W]``, the noise z itself instead.
            return_dict: False gives a tuple.
            eta: instead of the config's.

        Returns:
            :class:`BrownianBridgeSchedulerOutput`, of the sample's type; computed in float32 at least.

        Raises:
            ValueError: :meth:`set_timesteps` was not called, or the timestep is not one of ``timesteps``.
        """
        if self.num_inference_steps is None:
            raise ValueError("step: call set_timesteps(number of steps) first")
        dtype, eta = sample.dtype, self.config.eta if eta is None else eta
        sample, source, model_output = _wide(sample), _wide(source), _wide(model_output)

        # 1. The timestep t, the next one n, and the bridge at both; n = -1 is the target itself.
        index = self._index(timestep)
        grid = self._grid.to(index.device, non_blocking=True)
        t, n = grid[index], grid[index + 1]
        (m_t, d_t), (m_n, d_n) = self._coefficients(t, sample), self._coefficients(n, sample)

        # 2. The predicted target.
        x0 = self.predict_x0(model_output, t, sample, source)
        if self.config.clip_sample:
            x0 = x0.clamp(-1, 1)

        # 3. The variance of x_n given x_t and x_0 (BBDM, equation 13).
        s2 = ((d_t - d_n * (1 - m_t) ** 2 / (1 - m_n) ** 2) * d_n / d_t).clamp(min=0)

        # 4. How much of the noise is drawn now, and how much is kept.
        fresh = eta**2 * s2
        if self.config.step_rule == "bbdm":
            kept = (d_n - s2).clamp(min=0)
        else:  # dbim: both together are the bridge's; at the first step, from the source, all is drawn
            first = (index == 0).to(d_n.device).view(d_n.shape)
            fresh = torch.where(first, d_n, fresh)
            kept = (d_n - fresh).clamp(min=0)

        # 5. x_n without the fresh noise.
        rest = sample - (1 - m_t) * x0 - m_t * source
        prev_sample = (1 - m_n) * x0 + m_n * source + (kept / d_t).sqrt() * rest

        # 6. What the change of x0 between t and n adds, for a higher order.
        if self.config.solver_order > 1:
            prev_sample = prev_sample + (1 - m_n) * self._change_of_x0(x0, int(index), int(t), int(n))

        # 7. The fresh noise; its variance is known on the host unless rows differ.
        if fresh.ndim or fresh > 0:
            if variance_noise is None:
                variance_noise = randn_tensor(sample.shape, generator, sample.device, sample.dtype)
            prev_sample = prev_sample + fresh.sqrt() * variance_noise.to(sample)

        prev_sample, x0 = prev_sample.to(dtype), x0.to(dtype)
        if not return_dict:
            return prev_sample, x0
        return BrownianBridgeSchedulerOutput(prev_sample=prev_sample, pred_original_sample=x0)

    def index_for_timestep(self, timestep: int | torch.Tensor) -> int:
        """Index in ``timesteps`` of a timestep, the first where BBDM's grid visits it twice; ValueError if absent."""
        found = (self._grid[:-1] == int(timestep)).nonzero()
        if not len(found):
            raise ValueError(f"timestep {int(timestep)}: not one of the {len(self._grid) - 1} of set_timesteps")
        return int(found[0])

    def _index(self, timestep: int | torch.Tensor) -> torch.Tensor:
        """Index of a timestep on the host, where ``step_index`` counts on, or ``[B]`` of the timesteps of rows."""
        if isinstance(timestep, torch.Tensor) and timestep.numel() > 1:
            if self.config.solver_order > 1:
                raise ValueError("timestep: one for each row needs solver_order 1")
            if timestep.device.type == "cpu":
                return torch.tensor([self.index_for_timestep(one) for one in timestep])
            return (timestep[:, None] == self.timesteps.to(timestep.device)).int().argmax(1)
        index = self._begin_index if self._step_index is None else self._step_index
        on_host = not isinstance(timestep, torch.Tensor) or timestep.device.type == "cpu"
        if index is None or (on_host and self._grid[index] != timestep):
            index = self.index_for_timestep(timestep)
        self._step_index = index + 1
        return torch.tensor(index)

    def _change_of_x0(self, x0: torch.Tensor, index: int, t: int, n: int) -> torch.Tensor | float:
        earlier = self._history if index else []
        self._history = [(-float(self._log_sigma[t]), x0), *earlier][: self.config.solver_order]
        # After the last step the integral in log sigma has no end.
        return 0.0 if n < 0 else target_integral(self._history, -float(self._log_sigma[n]))

    def _coefficients(self, timesteps: Any, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """m and d, both 0 at timestep -1, in float32 or as wide as ``like``; for rows shaped and moved to fit it."""
        timesteps = torch.as_tensor(timesteps)
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        m, d = (
            (table.to(timesteps.device, dtype, non_blocking=True)[timesteps.clamp(min=0)]) * (timesteps >= 0)
            for table in (self.m_t, self.variance_t)
        )
        if timesteps.ndim:
            shape = (-1, *(1,) * (like.ndim - 1))
            m, d = m.to(like.device).view(shape), d.to(like.device).view(shape)
        return m, d


def _wide(values: torch.Tensor) -> torch.Tensor:
    """Half precision to single: coefficients near the ends are small differences of numbers near 1."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values

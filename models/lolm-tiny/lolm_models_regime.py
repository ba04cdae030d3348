# lolm.models.regime of this project, with its imports made flat.
"""The regime layer: a soft choice among discrete codes for every token (facts A5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .lolm_config_architecture import RegimeConfig
from .lolm_config_sizes import RegimeSize
from .lolm_mixers_base import fills
from .lolm_mixers_base import keep_init
from .lolm_mixers_base import no_decay
from .lolm_models_component import Component
from .lolm_ops_causal_conv import last_inputs


def exponential_noise(shape: Sequence[int], device: torch.device, generator: torch.Generator | None = None) -> torch.Tensor:
    """Draws from Exp(1), float32; −ln of them is Gumbel noise."""
    return torch.empty(shape, dtype=torch.float32, device=device).exponential_(generator=generator)


def gumbel_softmax(logits: torch.Tensor, tau: float | torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """softmax((ℓ + Gumbel noise) / τ), soft (Jang et al. 2017, arXiv 1611.01144), from :func:`exponential_noise`."""
    return F.softmax((logits.float() - noise.log()) / tau, dim=-1).to(logits.dtype)


def causal_product(x_BTR: torch.Tensor, conv: nn.Conv1d) -> torch.Tensor:
    """A left-padded Conv1d over time as one matrix product: for few channels far faster on a CPU than its own kernel."""
    kernel = conv.kernel_size[0]
    windows_BTRK = F.pad(x_BTR, (0, 0, kernel - 1, 0)).unfold(1, kernel, 1)
    return F.linear(windows_BTRK.flatten(2), conv.weight.flatten(1), conv.bias)


class Regime(Component):
    """p = Gumbel-softmax of logits over R codes, r = p · E_r.

    ℓ = W_ℓ [z; h; m]; with neighbours ℓ ← ℓ + γ · conv(ℓ), a causal convolution over time with γ learned from 0.1; then a
    clamp. In training p is sampled at temperature τ; in evaluation it is the noise-free softmax at τ = 1 (as published) or
    at the temperature that training reached. τ lies in a buffer and travels with the weights.
    """

    tau: torch.Tensor

    def __init__(self, config: RegimeConfig, size: RegimeSize, d_model: int) -> None:
        super().__init__()
        self.config, self.size, self.d_model = config, size, d_model
        self.logits = nn.Linear(3 * d_model, size.codes, bias=False)
        self.codebook = nn.Parameter(torch.empty(size.codes, size.width))
        self.conv: nn.Conv1d | None = None
        if config.neighbour_conv:
            self.conv = nn.Conv1d(size.codes, size.codes, config.neighbour_conv)
            self.conv_weight = nn.Parameter(torch.empty(1))  # γ; not (), which cannot be sharded
            keep_init(self.conv)
            no_decay(self.conv, "weight")
        keep_init(self, "codebook")
        no_decay(self, "codebook")
        self.register_buffer("tau", torch.empty(()))
        self.reset_parameters()

    @fills
    def reset_parameters(self) -> None:
        self.logits.reset_parameters()
        self.codebook.normal_()
        if self.conv is not None:
            self.conv.reset_parameters()
            self.conv_weight.fill_(0.1)
        self.tau.fill_(self.size.tau_start)

    def tau_at(self, step: int) -> float:
        """Temperature of a training step: linear from ``tau_start`` to ``tau_end`` over ``tau_steps`` steps."""
        size = self.size
        return size.tau_start + (size.tau_end - size.tau_start) * min(1.0, step / size.tau_steps)

    def set_step(self, step: int) -> None:
        self.tau.fill_(self.tau_at(step))

    def forward(
        self, z_BTD: torch.Tensor, h_BTD: torch.Tensor, m_BTD: torch.Tensor, noise_BTR: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns logits_BTR, probabilities_BTR and r_BTE; ``noise_BTR`` as :meth:`noise` gives it, by default drawn here."""
        logits_BTR = self.logits(torch.cat((z_BTD, h_BTD, m_BTD), dim=-1))
        if self.conv is not None:
            logits_BTR = logits_BTR + self.conv_weight * causal_product(logits_BTR, self.conv)
        return self._choose(logits_BTR, noise_BTR)

    def advance(
        self, z_BTD: torch.Tensor, h_BTD: torch.Tensor, m_BTD: torch.Tensor, window_BKR: torch.Tensor | None
    ) -> tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor | None]:
        """What :meth:`forward` returns, and the last logits before the convolution, (B, its width − 1, R), None without one; see
        :meth:`lolm.mixers.base.Mixer.advance`."""
        logits_BTR = self.logits(torch.cat((z_BTD, h_BTD, m_BTD), dim=-1))
        if self.conv is None:
            return self._choose(logits_BTR, None), None
        length, kernel = logits_BTR.shape[1], self.config.neighbour_conv
        known_BTR = logits_BTR if window_BKR is None else torch.cat((window_BKR, logits_BTR), dim=1)
        mixed_BTR = logits_BTR + self.conv_weight * causal_product(known_BTR, self.conv)[:, -length:]
        return self._choose(mixed_BTR, None), last_inputs(known_BTR, kernel)

    def _choose(
        self, logits_BTR: torch.Tensor, noise_BTR: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if self.config.clamp is not None:
            logits_BTR = logits_BTR.clamp(-self.config.clamp, self.config.clamp)
        if self.training:
            # Soft samples: noise makes rare codes chosen now and then, and the gradient flows through all of them.
            noise_BTR = self.noise(logits_BTR.shape[:2]) if noise_BTR is None else noise_BTR
            p_BTR = gumbel_softmax(logits_BTR, self.tau, noise_BTR)
        else:
            tau = self.tau.clamp(min=0.01) if self.config.eval_temperature == "trained" else 1.0
            p_BTR = F.softmax(logits_BTR / tau, dim=-1)
        return logits_BTR, p_BTR, self.embed(p_BTR)

    def noise(self, shape: Sequence[int], generator: torch.Generator | None = None) -> torch.Tensor:
        """Noise of the codes for (B, T) tokens, an input of :meth:`forward`: a generator inside could not be compiled."""
        return exponential_noise((*shape, self.size.codes), self.tau.device, generator)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *rest: Any) -> None:
        if (scale := state_dict.get(key := f"{prefix}conv_weight")) is not None:
            state_dict[key] = scale.view(1)  # older weights have γ without a dimension
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def embed(self, p_BTR: torch.Tensor) -> torch.Tensor:
        """r = p · E_r."""
        return p_BTR @ self.codebook.to(p_BTR.dtype)

    def num_params(self) -> int:
        codes, kernel = self.size.codes, self.config.neighbour_conv
        conv = kernel * codes**2 + codes + 1 if kernel else 0
        return 3 * self.d_model * codes + codes * self.size.width + conv

    def flops_per_token(self, length: int) -> float:
        codes, kernel = self.size.codes, self.config.neighbour_conv
        return 2 * (3 * self.d_model * codes + codes * self.size.width + kernel * codes**2)

    def state_size(self, length: int) -> int:
        return self.size.codes * max(0, self.config.neighbour_conv - 1)

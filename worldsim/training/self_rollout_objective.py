"""Objective of the self-rollout stage: the decoder is trained on the model's own rollouts.

A rollout runs without gradient under true controls and poses, exactly as at inference; each frame is
then decoded again with gradient and compared with the true one (Self-Forcing: train on the inputs
of inference).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from worldsim.data.clips import ClipStore
from worldsim.networks import Networks
from worldsim.pixels import to_model
from worldsim.sampling.clock import imagine_frame, init_state, observe_frame
from worldsim.sampling.control_batch import ControlBatch
from worldsim.training.losses import reconstruction_loss
from worldsim.training.stage import Logs, Objective


def self_rollout_objective(
    networks: Networks, clips: ClipStore, batch: int, length: int, given: int = 2
) -> Objective:
    """Return the objective: rollouts of ``length - given`` frames after ``given`` true ones."""

    def objective(rng: np.random.Generator, progress: float) -> tuple[Tensor, Logs]:
        clip = clips.sample(batch, length, rng)
        true = to_model(clip.frames, networks.device)
        poses = np.tile(np.eye(4), (batch, length, 1, 1)) if clip.poses is None else clip.poses
        steps = int(rng.choice(networks.sampler.whole_steps))
        losses, squares = [], []
        with torch.no_grad():
            memory = init_state(
                networks, true[:, 0], poses[:, 0], rng.integers(0, 2**63, batch).astype(np.uint64)
            )
        for t in range(1, length):
            controls = ControlBatch(clip.controls[:, t], poses[:, t], np.full(batch, clip.poses is not None))
            with torch.no_grad():
                if t < given:
                    observe_frame(networks, memory, true[:, t], controls)
                    continue
                imagined = imagine_frame(networks, memory, controls, steps)
            made = networks.tokenizer.decode(imagined.latent, imagined.prior)
            losses.append(reconstruction_loss(made, true[:, t]))
            squares.append((imagined.frame - true[:, t]).square().mean())
        psnr = -10 * torch.log10(torch.stack(squares) / 4)
        return torch.stack(losses).mean(), {"psnr_first": psnr[0].item(), "psnr_last": psnr[-1].item()}

    return objective

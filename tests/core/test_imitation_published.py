"""Policy imitation against the published code: losses, gradients and data-free walks of the fixtures."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from parity import assert_close, assert_within, load, names, out
from reference import (
    OUTPUT_KEYS,
    Outputs,
    doubled,
    fixture_policy,
    fixture_teacher,
    float32_allowance,
    plain,
    summed_time_error,
)
from torch import Tensor

from piflow_cli.core import imitation
from piflow_cli.core.flow import diffuse
from piflow_cli.core.imitation import (
    ImitationSettings,
    Partition,
    data_free_losses,
    imitation_loss,
    visit_states,
)
from piflow_cli.core.interfaces import Policy
from piflow_cli.core.schedule import Segments, Shift

SEGMENT_CASES = names("piid_loss", "[0-9]*")
WALK_CASES = names("piid_loss", "datafree*")


def ours(policy: Policy) -> Policy:
    return policy


def partition_of(tensors: dict[str, Tensor], prefix: str, segment: Tensor, settings: dict[str, Any]) -> Partition:
    return Partition.of(
        segment,
        tensors[f"{prefix}student_rand"],
        tensors[f"{prefix}teacher_rand"],
        teacher_ratio=settings["teacher_ratio"],
        window_substeps=settings["window_substeps"],
        total_substeps=settings["total_substeps"],
    )


def segment_outputs(
    tensors: dict[str, Tensor], settings: dict[str, Any], make: Callable[[Policy], Policy] = ours
) -> Outputs:
    """What a fixture of one segment holds; of several copies of its batch, each copy's own loss and gradients."""
    shift, total_substeps = Shift(settings["shift"]), settings["total_substeps"]
    tau_src, length = Segments(settings["nfe"], settings["final_step_size_scale"]).locate(tensors["in/raw_t"])
    sigma_src = shift.sigma(tau_src)
    x_src = diffuse(tensors["in/x_0"], tensors["in/noise"], sigma_src)
    output = {key: tensors[f"in/{key}"].clone().requires_grad_() for key in OUTPUT_KEYS[settings["kind"]]}
    policy = make(fixture_policy(output, x_src, sigma_src, settings["policy_kwargs"]))
    detached = policy.detach()
    if "in/dropout_rand" in tensors:
        detached = detached.drop_components(tensors["in/dropout_rand"] < settings["policy_dropout"])
    visits = visit_states(
        detached,
        fixture_teacher(tensors),
        x_src,
        tau_src,
        partition_of(tensors, "in/", length, settings),
        shift=shift,
        total_substeps=total_substeps,
    )
    copies = tau_src.shape[0] // settings["batch"]
    loss_settings = ImitationSettings(
        shift=shift, total_substeps=total_substeps, loss_scale=settings["loss_scale"] * copies
    )
    loss, u_policy = imitation_loss(policy, visits, settings=loss_settings)
    loss.backward()
    pred, target = torch.stack(u_policy).detach(), torch.stack([visit.u_teacher for visit in visits])
    error = (pred - target).square().unflatten(1, (copies, -1)).movedim(1, 0)  # (copies, M, B, C, H, W)
    return {
        "raw_t_src": tau_src,
        "sigma_t_src": sigma_src,
        "net_input_t": sigma_src,
        "segment_size": length,
        "x_t_src": x_src,
        "x_t_a": torch.stack([visit.x_t for visit in visits]),
        "raw_t_a": torch.stack([visit.tau for visit in visits]),
        "t_a": shift.sigma(torch.stack([visit.tau for visit in visits])),
        "raw_t_b_minus_window": torch.stack([visit.tau_window_end for visit in visits]),
        "pred_u": pred,
        "tgt_u": target,
        "loss": settings["loss_scale"] * 0.5 * error.flatten(1).mean(1),
        **{f"grad/{key}": value.grad for key, value in output.items()},
    }


def jittered(settings: dict[str, Any], *more: str) -> set[str]:
    return {*more, *(f"in/{key}" for key in OUTPUT_KEYS[settings["kind"]])}


@pytest.mark.parametrize("name", SEGMENT_CASES)
def test_losses_and_gradients_agree_with_the_published_code(name):
    """In float64 the policy and its plain form agree; in float32 both ours and the published numbers are as near to
    that as the plain form lets them be.

    Cases 01, 07 and 13 are why: a state near sigma = 0.01 divides by it, the posterior of each component there is a
    difference of terms some hundred times as large, and substep times that are added up have drifted by then.
    """
    tensors, settings = load(name)
    settings = settings | {"batch": tensors["in/raw_t"].shape[0]}
    single = segment_outputs(tensors, settings)
    exact = segment_outputs(doubled(tensors), settings)
    exact_plain = segment_outputs(doubled(tensors), settings, plain)
    allowance = float32_allowance(
        lambda inputs: segment_outputs(inputs, settings, plain),
        tensors,
        jittered=jittered(settings, "in/x_0", "in/noise"),
    )
    allowance["t_a"] = summed_time_error(settings["total_substeps"], Shift(settings["shift"]))
    for key, reference in exact.items():
        assert_close(exact_plain[key], reference, rtol=1e-9, atol=1e-10)
        assert_within(out(tensors, key), reference, allowance[key])
        assert_within(single[key], reference, allowance[key])


def walk_outputs(
    tensors: dict[str, Tensor],
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Policy], Policy] = ours,
) -> Outputs:
    """What a data-free fixture holds: each segment's source, loss and gradients; of several copies, each one's own.

    The loss is the mean over the copies.
    """
    keys, copies = OUTPUT_KEYS[settings["kind"]], tensors["in/noise"].shape[0] // settings["batch"]
    steps = [
        {key: tensors[f"in/step{i}/{key}"].clone().requires_grad_() for key in keys} for i in range(settings["nfe"])
    ]
    sources: list[Tensor] = []

    def make_policy(x_src: Tensor, sigma_src: Tensor) -> Policy:
        sources.append(x_src)
        return make(fixture_policy(steps[len(sources) - 1], x_src, sigma_src, settings["policy_kwargs"]))

    def replay(segment: Tensor, **_: Any) -> Partition:
        return partition_of(tensors, f"in/step{len(sources)}/", segment, settings)

    monkeypatch.setattr(imitation, "draw_partition", replay)
    losses = data_free_losses(
        make_policy,
        fixture_teacher(tensors),
        tensors["in/noise"],
        segments=Segments(settings["nfe"], settings["final_step_size_scale"]),
        settings=ImitationSettings(
            shift=Shift(settings["shift"]),
            num_intermediates=settings["num_intermediate_states"],
            window_substeps=settings["window_substeps"],
            total_substeps=settings["total_substeps"],
            loss_scale=settings["loss_scale"] * copies,
        ),
        teacher_ratio=settings["teacher_ratio"],
        generator=torch.Generator(),
    )
    outputs: Outputs = {}
    for i, (loss, step) in enumerate(zip(losses, steps, strict=True)):
        loss.backward()
        outputs |= {f"step{i}/x_t_src": sources[i], f"step{i}/loss": loss.detach()[None] / copies}
        outputs |= {f"step{i}/grad/{key}": value.grad for key, value in step.items()}
    return outputs


@pytest.mark.parametrize("name", WALK_CASES)
def test_data_free_walks_agree_with_the_published_code(name, monkeypatch):
    """As the segments, over all of them: what a state has drifted by, the next segment starts with."""
    tensors, settings = load(name)
    settings = settings | {"batch": tensors["in/noise"].shape[0]}
    single = walk_outputs(tensors, settings, monkeypatch)
    exact = walk_outputs(doubled(tensors), settings, monkeypatch)
    exact_plain = walk_outputs(doubled(tensors), settings, monkeypatch, plain)
    outputs = {key for i in range(settings["nfe"]) for key in jittered(settings, f"in/step{i}/")}
    allowance = float32_allowance(
        lambda inputs: walk_outputs(inputs, settings, monkeypatch, plain), tensors, jittered={"in/noise", *outputs}
    )
    for key, reference in exact.items():
        assert_close(exact_plain[key], reference, rtol=1e-8, atol=1e-9)
        assert_within(out(tensors, key), reference, allowance[key])
        assert_within(single[key], reference, allowance[key])

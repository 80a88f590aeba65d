"""How the published layout names, and describes in its config and metadata, the head of each policy family."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from piflow_cli.core.interfaces import PolicyFamily
from piflow_cli.errors import ModelError


class HeadLayout(Protocol):
    """The released form of one policy family's head; layers are named relative to the head."""

    policy: str
    released: str
    """The family's name in the metadata."""

    def to_released(self, name: str, projection: str) -> str:
        """The released name of a layer, such as proj_out_means.weight of means.weight."""
        ...

    def from_released(self, name: str, projection: str) -> str | None:
        """The inverse, or None for a weight that is not the head's."""
        ...

    def config(self, policy: PolicyFamily, *, in_channels: int) -> dict[str, Any]:
        """What config.json says of the head."""
        ...

    def metadata(self, policy: PolicyFamily) -> dict[str, Any]:
        """What the metadata says of the policy."""
        ...

    def settings(self, config: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
        """The settings of the policy that config and metadata give; either may be empty."""
        ...

    def caveats(self, policy: PolicyFamily) -> tuple[str, ...]:
        """What ComfyUI-piFlow would get wrong about the policy."""
        ...

    def sizes(self, weights: dict[str, Tensor], *, token_channels: int) -> dict[str, Any]:
        """The settings of the policy that the shapes of its layers give.

        Args:
            weights: the head's, by their names within it.
            token_channels: channels of a token of the base's latents.

        Raises:
            ModelError: shapes that no such head has.
        """
        ...


class MixtureHead:
    """GMFlow: three projections beside each other, in the place of the teacher's."""

    policy, released = "gmflow", "GMFlow"
    prefix, layers, logstd_layers = "proj_out_", ("means", "logweights", "logstds"), 2

    def to_released(self, name: str, projection: str) -> str:  # noqa: ARG002
        """proj_out_ and the layer."""
        return self.prefix + name

    def from_released(self, name: str, projection: str) -> str | None:  # noqa: ARG002
        """The layer behind proj_out_."""
        layer = name.removeprefix(self.prefix)
        return layer if layer != name and layer.split(".")[0] in self.layers else None

    def config(self, policy: PolicyFamily, *, in_channels: int) -> dict[str, Any]:  # noqa: ARG002
        """Number of components and the log-std network."""
        return {
            "num_gaussians": policy.num_components,
            "logstd_inner_dim": policy.logstd_inner_dim,
            "gm_num_logstd_layers": self.logstd_layers,
            "constant_logstd": policy.constant_logstd,
        }

    def metadata(self, policy: PolicyFamily) -> dict[str, Any]:  # noqa: ARG002
        """The type alone."""
        return {"type": self.released}

    def settings(self, config: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """The inverse of `config`.

        Raises:
            ModelError: a log-std network of another depth.
        """
        depth = config.get("gm_num_logstd_layers", self.logstd_layers)
        if depth != self.logstd_layers:
            raise ModelError(
                f"gm_num_logstd_layers is {depth}; only log-std networks of {self.logstd_layers} can be read"
            )
        names = {
            "num_gaussians": "num_components",
            "logstd_inner_dim": "logstd_inner_dim",
            "constant_logstd": "constant_logstd",
        }
        return {ours: config[theirs] for theirs, ours in names.items() if theirs in config}

    def caveats(self, policy: PolicyFamily) -> tuple[str, ...]:
        """That a log-std without a network is not read."""
        if policy.constant_logstd is None:
            return ()
        said = f"takes a mixture without log-std layers for points, not for log-std {policy.constant_logstd}"
        return (f"ComfyUI-piFlow {said}",)

    def sizes(self, weights: dict[str, Tensor], *, token_channels: int) -> dict[str, Any]:
        """Number of components, and width of the log-std network where there is one."""
        found = {"num_components": _multiple(weights, "means.weight", token_channels)}
        if "logstds.1.weight" in weights:
            found |= {"logstd_inner_dim": weights["logstds.1.weight"].shape[0], "constant_logstd": None}
        return found


class PointsHead:
    """DX: the teacher's own projection with N times the rows."""

    policy, released = "dx", "DX"
    layer = "points."

    def to_released(self, name: str, projection: str) -> str:
        """The projection's own name."""
        return f"{projection}.{name.removeprefix(self.layer)}"

    def from_released(self, name: str, projection: str) -> str | None:
        """The projection's weight and bias."""
        layer = name.removeprefix(f"{projection}.")
        return self.layer + layer if layer != name else None

    def config(self, policy: PolicyFamily, *, in_channels: int) -> dict[str, Any]:
        """N C output channels."""
        return {"out_channels": policy.num_points * in_channels}

    def metadata(self, policy: PolicyFamily) -> dict[str, Any]:
        """Segment and shift, and the mode where it is not the grid."""
        mode = {} if policy.mode == "grid" else {"mode": policy.mode}
        return {"type": self.released, "segment_size": policy.segment_size, "shift": policy.shift} | mode

    def settings(self, config: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
        """The inverse of `config` and `metadata`."""
        said = {key: metadata[key] for key in ("segment_size", "shift", "mode") if key in metadata}
        if config.get("out_channels") and config.get("in_channels"):
            said["num_points"] = config["out_channels"] // config["in_channels"]
        return said

    def caveats(self, policy: PolicyFamily) -> tuple[str, ...]:  # noqa: ARG002
        """None."""
        return ()

    def sizes(self, weights: dict[str, Tensor], *, token_channels: int) -> dict[str, Any]:
        """Number of points."""
        return {"num_points": _multiple(weights, f"{self.layer}weight", token_channels)}


def _multiple(weights: dict[str, Tensor], name: str, token_channels: int) -> int:
    """How many times a token's channels a layer gives."""
    rows = weights[name].shape[0] if name in weights else 0
    if rows == 0 or rows % token_channels:
        raise ModelError(
            f"the policy head's {name} has {rows} rows, which is no multiple of the {token_channels} channels of the "
            "base's tokens: it is a student of another base. Pass the base it was trained on (--base)."
        )
    return rows // token_channels


HEADS: tuple[HeadLayout, ...] = (MixtureHead(), PointsHead())
HEAD_KEYS = ("num_gaussians", "logstd_inner_dim", "gm_num_logstd_layers", "constant_logstd", "logweights_channels")
"""Keys of config.json that are the head's alone."""
